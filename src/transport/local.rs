//! Unix sockets: a file in place of an address and a port, for clients on the same machine.
//!
//! Knows files, but neither settings nor protocols. A file whose server is gone is replaced; anything else that is in the way stays, and
//! is an error. The file goes when the socket closes, unless another server has put its own in its place.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

/// A Unix socket that listens, and its file.
#[derive(Debug)]
pub struct LocalListener {
    /// First, so that the file goes before the socket closes: until then, the system gives its number to no other file.
    file: SocketFile,
    listener: UnixListener,
}

/// The file of a socket. Removes it when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl LocalListener {
    /// Listens at this path, whose file gets these permissions before anybody can connect.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if a server listens there, [`io::ErrorKind::AlreadyExists`] if something is there that is not a
    /// socket, or the system's.
    pub fn bind(path: &Path, mode: u32, backlog: i32) -> io::Result<Self> {
        make_room(path)?;
        let socket = stream_socket(SocketFlags::CLOEXEC)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::of(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        listen(&socket, backlog)?;
        Ok(Self { file, listener: UnixListener::from(socket) })
    }

    /// The file, and the socket for the runtime that this is called in.
    pub(super) fn into_parts(self) -> io::Result<(SocketFile, tokio::net::UnixListener)> {
        let Self { file, listener } = self;
        listener.set_nonblocking(true)?;
        Ok((file, tokio::net::UnixListener::from_std(listener)?))
    }
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            // If it stays, the next server replaces it.
            let _stays = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn make_room(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let reason = "something that is not a socket is there; it stays, so name another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // Without waiting: a server whose backlog is full is there too.
    let probe = stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
        Err(error) => Err(error.into()),
    }
}

fn stream_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const MODE: u32 = 0o600;

    fn listen_at(path: &Path) -> io::Result<LocalListener> {
        LocalListener::bind(path, MODE, 8)
    }

    #[test]
    fn the_file_has_its_mode_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let listener = listen_at(&path).expect("nothing is there");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, MODE);
        UnixStream::connect(&path).expect("it listens");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_server_that_listens_and_a_file_that_is_no_socket_are_left_alone_and_a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        drop(UnixListener::bind(&path).expect("nothing is there"));
        assert!(path.exists(), "its file outlives a socket of the standard library");
        let listener = listen_at(&path).expect("nobody listens");
        assert_eq!(listen_at(&path).expect_err("the first listens").kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first still listens");
        drop(listener);
        fs::write(&path, "text").expect("a file");
        let error = listen_at(&path).expect_err("a file is there");
        assert!(error.kind() == io::ErrorKind::AlreadyExists && error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it is still there"), "text");
    }

    #[test]
    fn the_file_of_another_server_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let first = listen_at(&path).expect("nothing is there");
        fs::rename(&path, folder.path().join("b.sock")).expect("moved");
        let _second = listen_at(&path).expect("nothing is there");
        drop(first);
        UnixStream::connect(&path).expect("the second listens");
    }
}
