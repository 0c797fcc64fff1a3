//! Where a tensor lies in shared memory, by its parameters.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    request::{Parameter, Parameters},
    response::{OutputData, SharedOutput},
    shared_memory::{Region, SHARED_MEMORY_BYTE_SIZE, SHARED_MEMORY_OFFSET, SHARED_MEMORY_REGION, SharedMemory},
};
use crate::domain::Fault;

/// A tensor's place. It keeps the region open, even if that has since been unregistered.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    region: Arc<Region>,
    offset: u64,
    bytes: u64,
}

impl Placement {
    /// The place that a tensor's parameters name; `None` if they name none. `field` is the tensor's.
    ///
    /// # Errors
    /// Those of [`SharedMemory::region`]; [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) for a size or offset that is
    /// missing or not a number.
    pub(super) fn of(parameters: &Parameters, field: &str, memory: &SharedMemory) -> Result<Option<Self>, Fault> {
        let in_field = |name: &str| format!("{field}.parameters.{name}");
        let region = match parameters.get(SHARED_MEMORY_REGION) {
            None => return Ok(None),
            Some(Parameter::String(name)) => {
                memory.region(name).map_err(|fault| fault.with_field(in_field(SHARED_MEMORY_REGION)))?
            }
            Some(other) => {
                let message = format!("{SHARED_MEMORY_REGION} is {other}, but must be the name of a region");
                return Err(Fault::invalid(in_field(SHARED_MEMORY_REGION), message));
            }
        };
        let number = |name: &str| match parameters.get(name) {
            None => Ok(None),
            Some(Parameter::Uint64(number)) => Ok(Some(*number)),
            Some(Parameter::Int64(number)) if *number >= 0 => Ok(Some(number.cast_unsigned())),
            Some(other) => {
                Err(Fault::invalid(in_field(name), format!("{name} is {other}, but must be a number of bytes from 0")))
            }
        };
        let missing = || {
            Fault::invalid(
                in_field(SHARED_MEMORY_BYTE_SIZE),
                format!("{SHARED_MEMORY_BYTE_SIZE} is missing; it goes with {SHARED_MEMORY_REGION}"),
            )
        };
        Ok(Some(Self {
            region,
            offset: number(SHARED_MEMORY_OFFSET)?.unwrap_or(0),
            bytes: number(SHARED_MEMORY_BYTE_SIZE)?.ok_or_else(missing)?,
        }))
    }

    /// How many bytes the parameters say are there; 0 if they do not say.
    pub(super) fn claimed_bytes(parameters: &Parameters) -> u64 {
        if !parameters.contains_key(SHARED_MEMORY_REGION) {
            return 0;
        }
        match parameters.get(SHARED_MEMORY_BYTE_SIZE) {
            Some(Parameter::Uint64(number)) => *number,
            Some(Parameter::Int64(number)) => u64::try_from(*number).unwrap_or(0),
            _ => 0,
        }
    }

    /// Removes the place from the parameters.
    pub(super) fn forget(parameters: &mut Parameters) {
        for name in [SHARED_MEMORY_REGION, SHARED_MEMORY_BYTE_SIZE, SHARED_MEMORY_OFFSET] {
            parameters.remove(name);
        }
    }

    /// Whether the tensor lies in its region and is not too large. Nothing is read.
    ///
    /// # Errors
    /// Those of [`Region::check`].
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.region.check(self.offset, self.bytes)
    }

    /// How many bytes the tensor has there.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The tensor's elements.
    ///
    /// # Errors
    /// Those of [`Region::read`].
    pub(super) fn read(&self) -> Result<Bytes, Fault> {
        self.region.read(self.offset, self.bytes)
    }

    /// Puts an output's elements there.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if they are more than the place holds; those of [`Region::write`].
    pub(super) fn put(&self, name: &str, data: &Bytes) -> Result<OutputData, Fault> {
        let (bytes, region) = (data.len() as u64, &self.region.status().name);
        if bytes > self.bytes {
            let message = format!(
                "output '{name}' has {bytes} bytes, but its place in shared memory region '{region}' holds {}",
                self.bytes
            );
            return Err(Fault::invalid(SHARED_MEMORY_BYTE_SIZE, message));
        }
        self.region.write(self.offset, data)?;
        Ok(OutputData::Shared(SharedOutput { region: region.clone(), offset: self.offset, bytes }))
    }
}
