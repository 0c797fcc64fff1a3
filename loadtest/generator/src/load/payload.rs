//! The data of the items that a load sends.
//!
//! It is made once: an item takes a reference to existing bytes, whatever its size.

use bytes::Bytes;
use tidemill::domain::Datatype;

use super::file::{Fill, Input};

/// How many different items of noise there are, so that no server can answer from memory.
const VARIANTS: u64 = 8;

/// Items larger than this do not differ.
const VARIED_BYTES_MAX: usize = 1 << 20;

/// Bytes of one element of [`Datatype::Bytes`], not counting its length.
const TEXT_BYTES: usize = 8;

/// The tensors of a load, each as little-endian bytes.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    variants: Vec<Vec<Bytes>>,
}

impl Payload {
    /// `items` items one after another in each tensor, as in a batch.
    pub(crate) fn new(inputs: &[Input], items: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut draw = || inputs.iter().map(|input| tensor(input, items, &mut random)).collect::<Vec<_>>();
        let first = draw();
        let is_small = first.iter().map(Bytes::len).sum::<usize>() <= VARIED_BYTES_MAX;
        let more = if is_small && inputs.iter().any(|input| input.fill == Fill::Noise) { VARIANTS - 1 } else { 0 };
        let variants = std::iter::once(first).chain((0..more).map(|_| draw())).collect();
        Self { variants }
    }

    /// All different items; item `seq` is the one at `seq` modulo their number.
    pub(crate) fn variants(&self) -> &[Vec<Bytes>] {
        &self.variants
    }

    /// The data of item `seq`, in the order of the inputs.
    pub(crate) fn of(&self, seq: u64) -> &[Bytes] {
        &self.variants[(seq % self.variants.len() as u64) as usize]
    }
}

fn tensor(input: &Input, items: usize, random: &mut fastrand::Rng) -> Bytes {
    let elements = input.elements() * items;
    let mut data = Vec::with_capacity(elements * input.datatype.fixed_size().unwrap_or(4 + TEXT_BYTES));
    for element in 0..elements {
        // Each item counts from 0.
        put(&mut data, input.datatype, input.fill, element % input.elements().max(1), random);
    }
    data.into()
}

fn put(data: &mut Vec<u8>, datatype: Datatype, fill: Fill, element: usize, random: &mut fastrand::Rng) {
    let number = match fill {
        Fill::Noise => random.u64(..),
        Fill::Zeros => 0,
        Fill::Ones => 1,
        Fill::Counter => element as u64,
    };
    let real = if fill == Fill::Noise { random.f64() * 0.2 - 0.1 } else { number as f64 };
    match datatype {
        Datatype::Bool => data.push(u8::from(number % 2 == 1)),
        Datatype::Fp64 => data.extend(real.to_le_bytes()),
        Datatype::Fp32 => data.extend((real as f32).to_le_bytes()),
        Datatype::Bf16 => data.extend(&(real as f32).to_le_bytes()[2..]),
        Datatype::Fp16 => data.extend(half::f16::from_f64(real).to_le_bytes()),
        Datatype::Bytes => {
            data.extend((TEXT_BYTES as u32).to_le_bytes());
            data.extend(number.to_le_bytes());
        }
        whole => data.extend(&number.to_le_bytes()[..whole.fixed_size().unwrap_or(8)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(datatype: Datatype, fill: Fill) -> Input {
        Input { name: "x".to_owned(), datatype, shape: vec![2, 3], fill }
    }

    #[test]
    fn every_datatype_has_the_bytes_of_its_shape() {
        for datatype in Datatype::ALL {
            for fill in [Fill::Noise, Fill::Zeros, Fill::Ones, Fill::Counter] {
                let payload = Payload::new(&[input(datatype, fill)], 5, 1);
                assert_eq!(payload.of(3)[0].len(), 30 * datatype.fixed_size().unwrap_or(12), "{datatype} {fill:?}");
            }
        }
    }

    #[test]
    fn ones_are_ones_of_the_datatype() {
        for datatype in Datatype::ALL {
            let Some(one) = datatype.one() else { continue };
            assert_eq!(&Payload::new(&[input(datatype, Fill::Ones)], 1, 1).of(0)[0][..one.len()], one, "{datatype}");
        }
    }

    #[test]
    fn each_item_of_a_batch_counts_from_zero() {
        let payload = Payload::new(&[input(Datatype::Uint8, Fill::Counter)], 2, 1);
        assert_eq!(payload.of(0)[0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5].as_slice());
    }

    #[test]
    fn noise_differs_between_items_and_follows_from_the_seed() {
        let noise = |seed| Payload::new(&[input(Datatype::Fp32, Fill::Noise)], 1, seed);
        assert_ne!(noise(1).of(0), noise(1).of(1));
        assert_eq!(noise(1).of(7), noise(1).of(15));
        assert_ne!(noise(1).of(0), noise(2).of(0));
        for value in noise(1).of(2)[0].chunks_exact(4) {
            let value = f32::from_le_bytes(value.try_into().expect("four bytes"));
            assert!((-0.1..0.1).contains(&value));
        }
    }
}
