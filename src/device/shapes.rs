//! Numbers the shapes of a model's items, so that the queue compares numbers.
//!
//! No number is given twice, so equal numbers mean equal shapes. A shape that has not been seen for long is forgotten and gets a
//! new number when it returns; the only effect is that its items do not share calls with those queued before.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{domain::Shape, scheduler::ShapeKey};

/// The fewest shapes remembered, and half of the most. Clients choose shapes.
const SHAPES_KEPT: usize = 1024;

/// The shapes of one model.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    /// Those seen since the others became old.
    young: HashMap<Shape, u64>,
    old: HashMap<Shape, u64>,
    given: u64,
}

impl Shapes {
    /// The key of a shape, given as sizes that must be equal.
    pub(super) fn key(&self, sizes: &[usize]) -> ShapeKey {
        ShapeKey(self.numbers.lock().of(sizes))
    }
}

impl Numbers {
    fn of(&mut self, sizes: &[usize]) -> u64 {
        if let Some(number) = self.young.get(sizes) {
            return *number;
        }
        let number = self.old.get(sizes).copied().unwrap_or_else(|| {
            // 0 is the key for models with only one shape.
            self.given += 1;
            self.given
        });
        if self.young.len() >= SHAPES_KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(Shape::from_slice(sizes), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shapes_share_a_key_and_others_do_not() {
        let shapes = Shapes::default();
        let keys = [&[3, 2][..], &[2, 3], &[3], &[3, 2, 0], &[]].map(|sizes| shapes.key(sizes));
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == key), Some(at), "no two shapes share a key");
            assert_ne!(*key, ShapeKey::default());
        }
        assert_eq!(shapes.key(&[3, 2]), keys[0]);
    }

    #[test]
    fn a_shape_in_use_keeps_its_key_and_a_forgotten_one_gets_a_new_one() {
        let shapes = Shapes::default();
        let (kept, left) = (shapes.key(&[0, 0]), shapes.key(&[0, 1]));
        for size in 0..3 * SHAPES_KEPT {
            shapes.key(&[1, size]);
            assert_eq!(shapes.key(&[0, 0]), kept);
            let numbers = shapes.numbers.lock();
            assert!(numbers.young.len() <= SHAPES_KEPT && numbers.old.len() <= SHAPES_KEPT);
        }
        assert!(shapes.key(&[0, 1]).0 > left.0, "no number is given twice");
    }
}
