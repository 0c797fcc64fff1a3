//! System shared memory that clients have registered: inputs are read from it, outputs are put into it.
//!
//! Objects are never mapped. They are read and written as files, so a client that truncates its own object gets an error, where a
//! mapping would kill the server with SIGBUS. That needs a system, such as Linux, whose shared memory can be read as a file.
//!
//! Knows neither models nor requests. Reading and writing are copies within memory; long ones are made where nobody has to wait.
//!
//! # What a client can reach
//! Any object of this machine's shared memory that the server's user may open for reading and writing, and nothing else: no name
//! leads out of it, and symbolic links are not followed. `shared_memory.enabled` says on which ports.
//!
//! # Unregistering
//! A request holds its [`Region`]s from when it is decoded until its outputs are written, so a region unregistered in between
//! stays open for it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags},
    io::{Errno, pread},
    shm,
};
use serde::Serialize;

use crate::{
    config::SharedMemoryConfig,
    connections::peer,
    descriptors::{Descriptor, Descriptors},
    domain::{Fault, FaultKind},
    shares::{Claim, Path, Pool},
};

/// Parameter of a tensor that lies in shared memory: the name of the region.
pub const SHARED_MEMORY_REGION: &str = "shared_memory_region";
/// How many bytes it has there.
pub const SHARED_MEMORY_BYTE_SIZE: &str = "shared_memory_byte_size";
/// Where in the region it begins.
pub const SHARED_MEMORY_OFFSET: &str = "shared_memory_offset";

/// Longest name of a region.
const NAME_BYTES_MAX: usize = 255;
/// Longest key without its slash; with it, the longest that a file's name may be.
const KEY_BYTES_MAX: usize = 254;

/// A registered region, as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// The shared memory object.
    pub key: String,
    /// Its first byte in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub byte_size: u64,
}

/// The regions that clients have registered. Clones share them.
#[derive(Debug, Clone)]
pub struct SharedMemory {
    inner: Arc<Inner>,
    descriptors: Descriptors,
    /// Whether the holders of this clone may use them.
    is_enabled: bool,
}

#[derive(Debug)]
struct Inner {
    config: SharedMemoryConfig,
    places: Pool,
    regions: RwLock<BTreeMap<String, Arc<Region>>>,
}

/// A registered region; it can be read and written even after it has been unregistered.
#[derive(Debug)]
pub struct Region {
    status: RegionStatus,
    object: File,
    tensor_bytes_max: usize,
    _place: Claim,
    _descriptor: Descriptor,
}

impl SharedMemory {
    /// No regions yet, and the limits for them.
    #[must_use]
    pub fn new(config: SharedMemoryConfig) -> Self {
        let is_enabled = config.enabled.is_on(true);
        let places = Pool::new("shared_memory.max_regions", config.max_regions);
        Self {
            inner: Arc::new(Inner { config, places, regions: RwLock::default() }),
            descriptors: Descriptors::unlimited(),
            is_enabled,
        }
    }

    /// The same, taking one of these descriptors for each region.
    #[must_use]
    pub(super) fn within(self, descriptors: Descriptors) -> Self {
        Self { descriptors, ..self }
    }

    /// The same regions for clients that may use them, or may not.
    pub(super) fn for_clients(&self, may_use: bool) -> Self {
        Self { is_enabled: may_use, ..self.clone() }
    }

    /// Whether it is turned on.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Registers `byte_size` bytes from `offset` on of the object `key`, under `name`.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if it is turned off; [`FaultKind::Invalid`] with the field if the name is taken, empty or too long,
    /// the key is not the name of an object, the object cannot be opened for reading and writing, or is too short;
    /// [`FaultKind::NotFound`] if there is no such object; [`FaultKind::Overloaded`] at `shared_memory.max_regions`, at the peer's
    /// share of them, or if the process has no descriptor left for clients.
    pub fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), Fault> {
        let Inner { config, places, regions } = self.enabled()?;
        check_name(name)?;
        if regions.read().contains_key(name) {
            return Err(taken(name));
        }
        let place = places.claim(&Path::of(peer(), 0), 1).map_err(|full| full.fault("regions are registered"))?;
        let descriptor = self.descriptors.try_take().ok_or_else(|| no_descriptor(&self.descriptors))?;
        let object = open(key)?;
        check_bounds(&object, key, offset, byte_size)?;
        let status = RegionStatus { name: name.to_owned(), key: key.to_owned(), offset, byte_size };
        let region = Region { status, object, tensor_bytes_max: config.max_tensor_bytes, _place: place, _descriptor: descriptor };
        match regions.write().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(taken(name)),
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::new(region));
                Ok(())
            }
        }
    }

    /// Forgets a region. A name without one is not a fault.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if it is turned off.
    pub fn unregister(&self, name: &str) -> Result<(), Fault> {
        self.enabled()?.regions.write().remove(name);
        Ok(())
    }

    /// Forgets all regions.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if it is turned off.
    pub fn unregister_all(&self) -> Result<(), Fault> {
        self.enabled()?.regions.write().clear();
        Ok(())
    }

    /// The region of this name, or all of them by name if it is empty.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] for an unknown name, [`FaultKind::Denied`] if it is turned off.
    pub fn status(&self, name: &str) -> Result<Vec<RegionStatus>, Fault> {
        if name.is_empty() {
            return Ok(self.enabled()?.regions.read().values().map(|region| region.status.clone()).collect());
        }
        Ok(vec![self.region(name)?.status.clone()])
    }

    /// The region of this name, to hold for as long as a request needs it.
    ///
    /// # Errors
    /// As [`SharedMemory::status`].
    pub fn region(&self, name: &str) -> Result<Arc<Region>, Fault> {
        self.enabled()?.regions.read().get(name).cloned().ok_or_else(|| {
            let message = format!("no shared memory region '{name}' is registered; register it before a request names it");
            Fault::new(FaultKind::NotFound, message).with_field(SHARED_MEMORY_REGION)
        })
    }

    fn enabled(&self) -> Result<&Inner, Fault> {
        if self.is_enabled {
            return Ok(&self.inner);
        }
        Err(Fault::new(FaultKind::Denied, "clients may not use shared memory on this port (shared_memory.enabled)"))
    }
}

impl Region {
    /// The region as it was registered.
    #[must_use]
    pub const fn status(&self) -> &RegionStatus {
        &self.status
    }

    /// Whether `bytes` bytes from `offset` on could be read.
    ///
    /// # Errors
    /// As [`Region::read`], but for those of the object itself.
    pub fn check(&self, offset: u64, bytes: u64) -> Result<(), Fault> {
        self.place(offset, bytes).map(drop)
    }

    /// A copy of `bytes` bytes from `offset` on.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] with the field if they do not lie in the region, or the client has truncated the object since;
    /// [`FaultKind::TooLarge`] if they are more than `shared_memory.max_tensor_bytes`; [`FaultKind::Failed`] if the system fails.
    pub fn read(&self, offset: u64, bytes: u64) -> Result<Bytes, Fault> {
        let (position, length) = self.place(offset, bytes)?;
        let mut data = Vec::new();
        data.try_reserve_exact(length).map_err(|error| self.failed("read", &error))?;
        while data.len() < length {
            let from = position + data.len() as u64;
            match pread(&self.object, spare_capacity(&mut data), from) {
                Ok(0) => return Err(self.truncated()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", &error)),
            }
        }
        // The memory may be larger than what was asked for, and is then filled.
        data.truncate(length);
        Ok(data.into())
    }

    /// Puts `data` at `offset`.
    ///
    /// # Errors
    /// As [`Region::read`].
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let (position, _) = self.place(offset, data.len() as u64)?;
        let size = self.object.metadata().map_err(|error| self.failed("write", &error))?.len();
        // Writing would make the object longer again.
        if size < position + data.len() as u64 {
            return Err(self.truncated());
        }
        self.object.write_all_at(data, position).map_err(|error| self.failed("write", &error))
    }

    /// Where this part of the region lies in the object, and its length.
    fn place(&self, offset: u64, bytes: u64) -> Result<(u64, usize), Fault> {
        let RegionStatus { name, byte_size, .. } = &self.status;
        if offset.checked_add(bytes).is_none_or(|end| end > *byte_size) {
            let field = if offset > *byte_size { SHARED_MEMORY_OFFSET } else { SHARED_MEMORY_BYTE_SIZE };
            let message = format!(
                "{bytes} bytes from {offset} on do not lie in shared memory region '{name}', which was registered with {byte_size} bytes"
            );
            return Err(Fault::invalid(field, message));
        }
        match usize::try_from(bytes) {
            Ok(length) if length <= self.tensor_bytes_max => Ok((self.status.offset + offset, length)),
            _ => {
                let limit = self.tensor_bytes_max;
                let message = format!("{bytes} bytes in shared memory are more than the {limit} that a tensor there may have");
                Err(Fault::new(FaultKind::TooLarge, message)
                    .with_field(SHARED_MEMORY_BYTE_SIZE)
                    .with_limit("shared_memory.max_tensor_bytes", limit as u64))
            }
        }
    }

    fn truncated(&self) -> Fault {
        let RegionStatus { name, key, .. } = &self.status;
        let message =
            format!("shared memory region '{name}' is incomplete: its object '{key}' was made shorter since it was registered");
        Fault::invalid(SHARED_MEMORY_REGION, message)
    }

    fn failed(&self, what: &str, error: &dyn std::fmt::Display) -> Fault {
        Fault::new(FaultKind::Failed, format!("cannot {what} shared memory region '{}': {error}", self.status.name))
    }
}

fn no_descriptor(descriptors: &Descriptors) -> Fault {
    let limit = descriptors.limit();
    let message = format!(
        "no more files can be opened: the process may have {limit} open (ulimit -n), and clients use all but those that the server keeps \
         for itself; unregister regions or close connections"
    );
    Fault::new(FaultKind::Overloaded, message).with_limit("ulimit -n", limit)
}

fn taken(name: &str) -> Fault {
    Fault::invalid("name", format!("shared memory region '{name}' is registered already; unregister it first"))
}

fn check_name(name: &str) -> Result<(), Fault> {
    match name.len() {
        0 => Err(Fault::invalid("name", "the name of the shared memory region is empty")),
        1..=NAME_BYTES_MAX => Ok(()),
        length => {
            let message =
                format!("the name of the shared memory region has {length} bytes; at most {NAME_BYTES_MAX} are allowed");
            Err(Fault::invalid("name", message))
        }
    }
}

/// Opens an object. As elsewhere, leading slashes in its name do not matter.
fn open(key: &str) -> Result<File, Fault> {
    let name = key.trim_start_matches('/');
    if name.is_empty() || name.len() > KEY_BYTES_MAX || name.contains(['/', '\0']) || [".", ".."].contains(&name) {
        let message = format!(
            "'{key}' is not the key of a shared memory object, such as '/name': at most {KEY_BYTES_MAX} bytes after the slash, and no further slash"
        );
        return Err(Fault::invalid("key", message));
    }
    // A link could lead to any file that the server's user can open.
    let flags = shm::OFlags::RDWR | shm::OFlags::from_bits_retain(OFlags::NOFOLLOW.bits());
    let object = shm::open(format!("/{name}"), flags, Mode::empty()).map_err(|error| cannot_open(key, error))?;
    let object = File::from(object);
    match object.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(object),
        Ok(_) => Err(Fault::invalid("key", format!("'{key}' is not a shared memory object that can be read as a file"))),
        Err(error) => Err(Fault::new(FaultKind::Failed, format!("cannot look at shared memory object '{key}': {error}"))),
    }
}

fn cannot_open(key: &str, error: Errno) -> Fault {
    let kind = match error {
        Errno::NOENT => {
            let message =
                format!("there is no shared memory object '{key}' on the server's machine; create it before you register it");
            return Fault::new(FaultKind::NotFound, message).with_field("key");
        }
        Errno::MFILE | Errno::NFILE => FaultKind::Overloaded,
        _ => FaultKind::Invalid,
    };
    let message = format!("the server cannot open shared memory object '{key}' for reading and writing: {error}");
    Fault::new(kind, message).with_field("key")
}

fn check_bounds(object: &File, key: &str, offset: u64, byte_size: u64) -> Result<(), Fault> {
    if byte_size == 0 {
        return Err(Fault::invalid("byte_size", "a shared memory region has at least 1 byte"));
    }
    let size = object
        .metadata()
        .map_err(|error| Fault::new(FaultKind::Failed, format!("cannot look at shared memory object '{key}': {error}")))?
        .len();
    if offset.checked_add(byte_size).is_some_and(|end| end <= size) {
        return Ok(());
    }
    let field = if offset >= size { "offset" } else { "byte_size" };
    let message =
        format!("{byte_size} bytes from {offset} on do not lie in shared memory object '{key}', which has {size} bytes");
    Err(Fault::invalid(field, message))
}

#[cfg(test)]
mod tests {
    use std::{
        process,
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::config::Switch;

    /// An object that goes with the test.
    struct Object {
        key: String,
        file: File,
    }

    impl Object {
        fn new(bytes: u64) -> Self {
            static NUMBER: AtomicU64 = AtomicU64::new(0);
            let key = format!("/tidemill-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
            let file = File::from(shm::open(&key, flags, Mode::RUSR | Mode::WUSR).expect("an object"));
            file.set_len(bytes).expect("memory");
            Self { key, file }
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            let _ = shm::unlink(&self.key);
        }
    }

    fn shared_memory() -> SharedMemory {
        SharedMemory::new(SharedMemoryConfig::default())
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Fault>) -> (FaultKind, Option<String>, String) {
        let fault = result.expect_err("must be refused");
        (fault.kind(), fault.field().map(str::to_owned), fault.message().to_owned())
    }

    fn assert_refused<T: std::fmt::Debug>(result: Result<T, Fault>, kind: FaultKind, field: &str, part: &str) {
        let (found, at, message) = refused(result);
        assert_eq!((found, at.as_deref()), (kind, Some(field)), "{message}");
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn what_a_client_puts_in_is_read_and_what_is_written_it_finds() {
        let (memory, object) = (shared_memory(), Object::new(64));
        memory.register("region", &object.key, 16, 32).expect("it lies in the object");
        object.file.write_all_at(b"input", 16 + 4).expect("the client's own");
        assert_eq!(memory.region("region").and_then(|region| region.read(4, 5)).as_deref(), Ok(&b"input"[..]));
        memory.region("region").expect("registered").write(27, b"ouput").expect("the last 5 bytes");
        let mut found = [0; 5];
        object.file.read_exact_at(&mut found, 16 + 27).expect("the client's own");
        assert_eq!(&found, b"ouput");
        assert_eq!(object.file.metadata().expect("metadata").len(), 64, "the object keeps its length");
    }

    #[test]
    fn regions_are_told_by_name() {
        let (memory, object) = (shared_memory(), Object::new(64));
        for name in ["b", "a"] {
            memory.register(name, &object.key, 8, 8).expect("two regions may share an object");
        }
        let status = |name: &str| RegionStatus { name: name.to_owned(), key: object.key.clone(), offset: 8, byte_size: 8 };
        assert_eq!(memory.status(""), Ok(vec![status("a"), status("b")]));
        assert_eq!(memory.status("b"), Ok(vec![status("b")]));
        assert_refused(memory.status("c"), FaultKind::NotFound, "shared_memory_region", "'c'");
        memory.unregister("b").expect("it is there");
        memory.unregister("b").expect("it need not be there");
        assert_eq!(memory.status(""), Ok(vec![status("a")]));
        memory.unregister_all().expect("nothing can fail");
        assert_eq!(memory.status(""), Ok(Vec::new()));
    }

    #[test]
    fn what_lies_outside_of_an_object_or_a_region_is_refused() {
        let (memory, object) = (shared_memory(), Object::new(64));
        let register = |offset, byte_size| memory.register("region", &object.key, offset, byte_size);
        assert_refused(register(0, 65), FaultKind::Invalid, "byte_size", "which has 64 bytes");
        assert_refused(register(64, 1), FaultKind::Invalid, "offset", "which has 64 bytes");
        assert_refused(register(8, u64::MAX), FaultKind::Invalid, "byte_size", "which has 64 bytes");
        assert_refused(register(0, 0), FaultKind::Invalid, "byte_size", "at least 1 byte");
        register(32, 32).expect("its second half");
        let region = memory.region("region").expect("registered");
        assert_eq!(region.read(32, 0).as_deref(), Ok(&b""[..]), "nothing is everywhere");
        assert_refused(region.read(0, 33), FaultKind::Invalid, "shared_memory_byte_size", "32 bytes");
        assert_refused(region.read(33, 0), FaultKind::Invalid, "shared_memory_offset", "32 bytes");
        assert_refused(region.read(u64::MAX, 2), FaultKind::Invalid, "shared_memory_offset", "32 bytes");
        assert_refused(region.write(31, b"ab"), FaultKind::Invalid, "shared_memory_byte_size", "32 bytes");
    }

    #[test]
    fn names_and_keys_are_checked() {
        let (memory, object) = (shared_memory(), Object::new(8));
        memory.register("taken", &object.key, 0, 8).expect("free");
        let register = |name: &str, key: &str| memory.register(name, key, 0, 8);
        assert_refused(register("taken", &object.key), FaultKind::Invalid, "name", "registered already");
        assert_refused(register("", &object.key), FaultKind::Invalid, "name", "empty");
        assert_refused(register(&"n".repeat(256), &object.key), FaultKind::Invalid, "name", "256 bytes");
        for key in ["", "/", "..", "/../etc/passwd", "/a/b", "a\0b", &"k".repeat(255)] {
            assert_refused(register("free", key), FaultKind::Invalid, "key", "is not the key");
        }
        assert_refused(register("free", "/tidemill-test-none"), FaultKind::NotFound, "key", "'/tidemill-test-none'");
        register("free", object.key.trim_start_matches('/')).expect("the slash may be left out");
        assert_refused(
            memory.region("none").and_then(|region| region.read(0, 1)),
            FaultKind::NotFound,
            "shared_memory_region",
            "'none'",
        );
    }

    #[test]
    fn a_link_is_not_followed() {
        let (memory, object) = (shared_memory(), Object::new(8));
        let link = format!("{}-link", object.key);
        rustix::fs::symlink("/etc/hostname", format!("/dev/shm{link}")).expect("a link");
        let registered = memory.register("region", &link, 0, 1);
        shm::unlink(&link).expect("it is there");
        assert_refused(registered, FaultKind::Invalid, "key", "cannot open");
    }

    #[test]
    fn a_truncated_object_gives_an_error_and_stays_short() {
        let (memory, object) = (shared_memory(), Object::new(8192));
        memory.register("region", &object.key, 0, 8192).expect("all of it");
        let region = memory.region("region").expect("registered");
        object.file.set_len(100).expect("the client's own");
        assert_eq!(region.read(0, 100).map(|data| data.len()), Ok(100));
        assert_refused(region.read(0, 8192), FaultKind::Invalid, "shared_memory_region", "made shorter");
        assert_refused(region.write(96, &[1; 8]), FaultKind::Invalid, "shared_memory_region", "made shorter");
        assert_eq!(object.file.metadata().expect("metadata").len(), 100);
    }

    #[test]
    fn there_are_as_many_regions_and_bytes_as_the_limits_say() {
        let config = SharedMemoryConfig { max_regions: 2, max_tensor_bytes: 16, ..SharedMemoryConfig::default() };
        let (memory, object) = (SharedMemory::new(config), Object::new(64));
        for name in ["a", "b"] {
            memory.register(name, &object.key, 0, 64).expect("below the limit");
        }
        let fault = memory.register("c", &object.key, 0, 64).expect_err("one too many");
        assert_eq!(fault.kind(), FaultKind::Overloaded);
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("shared_memory.max_regions", 2)));
        memory.unregister("a").expect("it is there");
        memory.register("c", &object.key, 0, 64).expect("there is room again");
        let fault = memory.region("c").and_then(|region| region.read(0, 17)).expect_err("one byte too many");
        assert_eq!(fault.kind(), FaultKind::TooLarge);
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("shared_memory.max_tensor_bytes", 16)));
        let fault = memory.region("c").expect("registered").write(0, &[0; 17]).expect_err("one byte too many");
        assert_eq!(fault.kind(), FaultKind::TooLarge);
    }

    #[test]
    fn turned_off_it_refuses_everything() {
        let memory = SharedMemory::new(SharedMemoryConfig { enabled: Switch::Off, ..SharedMemoryConfig::default() });
        let object = Object::new(8);
        let results = [
            memory.register("a", &object.key, 0, 8),
            memory.unregister("a"),
            memory.unregister_all(),
            memory.status("").map(|_| ()),
            memory.region("a").map(|_| ()),
        ];
        for result in results {
            let (kind, _, message) = refused(result);
            assert_eq!(kind, FaultKind::Denied);
            assert!(message.contains("shared_memory.enabled"), "{message}");
        }
        assert!(!memory.is_enabled());
    }

    #[test]
    fn a_request_in_flight_keeps_its_region_while_others_unregister_it() {
        let (memory, object) = (shared_memory(), Object::new(4096));
        object.file.write_all_at(&[7; 4096], 0).expect("the client's own");
        memory.register("region", &object.key, 0, 4096).expect("all of it");
        let held = memory.region("region").expect("registered");
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    memory.unregister("region").expect("nothing can fail");
                    memory.register("region", &object.key, 0, 4096).expect("free again");
                }
            });
            for _ in 0..200 {
                assert_eq!(held.read(0, 4096).as_deref(), Ok(&[7; 4096][..]));
                held.write(0, &[7; 8]).expect("it is still open");
                // A reader in between finds all of it or no region.
                match memory.region("region").and_then(|region| region.read(0, 4096)) {
                    Ok(data) => assert_eq!(data, [7; 4096][..]),
                    Err(fault) => assert_eq!(fault.kind(), FaultKind::NotFound),
                }
            }
        });
        memory.unregister_all().expect("nothing can fail");
        assert_eq!(held.read(4095, 1).as_deref(), Ok(&[7][..]));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_lies_there(offset in 0_u64..100, byte_size in 1_u64..100, at: u64, bytes: u64, small in 0_u64..120) {
            let (memory, object) = (shared_memory(), Object::new(100));
            let content: Vec<u8> = (0..100).collect();
            object.file.write_all_at(&content, 0).expect("the client's own");
            let registered = memory.register("region", &object.key, offset, byte_size);
            prop_assert_eq!(registered.is_ok(), offset + byte_size <= 100);
            if registered.is_ok() {
                let region = memory.region("region").expect("registered");
                prop_assert!(at <= byte_size || region.read(at, bytes).is_err());
                let expected = content[offset as usize..(offset + byte_size) as usize].get(..small as usize);
                let read = region.read(0, small).ok();
                prop_assert_eq!(read.as_deref(), expected);
            }
        }
    }
}
