//! The states that streams keep from one model call to the next, and how they get into a call and out again.
//!
//! [`StateKeeper`] is what an engine does with the states of one model; [`HostStates`] keeps them as bytes in this machine's memory.

use std::{any::Any, ops::Range};

use smallvec::SmallVec;
use tidemill_domain::{StateSpec, Tensor};

use super::{
    EngineError, ItemCall, RunError, StreamState,
    buffer::AlignedBuffer,
    layout::{layout, too_large},
    strips::Strips,
};

/// Keeps the states of one model's streams, in a form that the engine chooses.
pub trait StateKeeper: Send + Sync {
    /// Puts the items' states into `batch`, which has a buffer for each of the signature's states. An item without a state, or with an
    /// empty one, brings zeros. Changes no state.
    ///
    /// # Errors
    /// [`RunError::BadBatch`] if a state was not made by this keeper.
    fn gather(&self, items: &[ItemCall<'_>], batch: &mut [AlignedBuffer]) -> Result<(), RunError>;

    /// Takes the items' next states out of `next`, which has a tensor for each of the signature's states. The tensors are what the
    /// signature says, and these items have been gathered, so that nothing can fail half-way.
    ///
    /// # Errors
    /// [`RunError`]; then no state has changed.
    fn scatter(&self, items: &[ItemCall<'_>], next: &[&Tensor]) -> Result<(), RunError>;

    /// A state that holds these tensors, one for each of the signature's states, without batch dimension.
    ///
    /// # Errors
    /// [`RunError::BadBatch`] if they are not what the signature says.
    fn make(&self, tensors: &[Tensor]) -> Result<StreamState, RunError>;

    /// The tensors that a state holds; `None` if it is empty.
    fn read(&self, state: &StreamState) -> Option<Vec<Tensor>>;
}

/// States as bytes in this machine's memory: for engines without memory of their own.
pub(super) struct HostStates {
    places: Vec<Place>,
    /// Bytes of all states of one stream.
    bytes: usize,
}

/// One of the signature's states.
struct Place {
    spec: StateSpec,
    /// How it lies in a batch of one.
    alone: Strips,
    /// Where it lies among a stream's bytes.
    range: Range<usize>,
}

/// One stream's states, one after the other, row-major, without batch dimension.
struct HostState(Box<[u8]>);

impl HostStates {
    /// # Errors
    /// [`EngineError::Load`] if a state's size is not fixed, or larger than can be addressed.
    pub(super) fn new(states: &[StateSpec]) -> Result<Self, EngineError> {
        let mut bytes = 0_usize;
        let place = |spec: &StateSpec| -> Result<Place, EngineError> {
            let element_bytes = spec.datatype.fixed_size().ok_or_else(|| {
                EngineError::Load(format!("'{}' is {}, which has no size that a state could have", spec.input, spec.datatype))
            })?;
            let alone = layout(&spec.input, &spec.dims, spec.batch_axis, element_bytes, 1);
            let alone = alone.map_err(|error| EngineError::Load(error.to_string()))?;
            let range = bytes..bytes.saturating_add(alone.item_bytes());
            bytes = range.end;
            Ok(Place { spec: spec.clone(), alone, range })
        };
        let places = states.iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self { places, bytes })
    }

    /// How each state lies in a batch.
    fn layouts(&self, batch_size: usize) -> Result<SmallVec<[Strips; 2]>, RunError> {
        let layout_of = |Place { spec, alone, .. }: &Place| {
            alone.of_batch(batch_size).ok_or_else(|| too_large(&spec.input, &spec.dims, batch_size))
        };
        self.places.iter().map(layout_of).collect()
    }

    /// The bytes of a stream of this model.
    fn bytes_of<'a>(&self, state: &'a (dyn Any + Send)) -> Option<&'a [u8]> {
        let HostState(bytes) = state.downcast_ref()?;
        (bytes.len() == self.bytes).then_some(&**bytes)
    }
}

impl StateKeeper for HostStates {
    fn gather(&self, items: &[ItemCall<'_>], batch: &mut [AlignedBuffer]) -> Result<(), RunError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let layouts = self.layouts(items.len())?;
        for (strips, buffer) in layouts.iter().zip(&mut *batch) {
            buffer.overwrite(strips.batch_bytes());
        }
        let mut put = |index: usize, state: Option<&(dyn Any + Send)>| -> Result<(), RunError> {
            let Some(state) = state else {
                layouts.iter().zip(&mut *batch).for_each(|(strips, buffer)| strips.put_zeros(buffer, index));
                return Ok(());
            };
            let Some(bytes) = self.bytes_of(state) else {
                return Err(RunError::BadBatch(format!("item {index} brings the state of another model")));
            };
            for ((strips, buffer), place) in layouts.iter().zip(&mut *batch).zip(&self.places) {
                strips.put(buffer, index, &bytes[place.range.clone()]);
            }
            Ok(())
        };
        for (index, item) in items.iter().enumerate() {
            match item.state {
                Some(state) => state.with(|state| put(index, state.as_deref()))?,
                None => put(index, None)?,
            }
        }
        Ok(())
    }

    fn scatter(&self, items: &[ItemCall<'_>], next: &[&Tensor]) -> Result<(), RunError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let layouts = self.layouts(items.len())?;
        for (index, item) in items.iter().enumerate() {
            let Some(state) = item.state else { continue };
            state.with(|state| {
                let state = state.get_or_insert_with(|| Box::new(HostState(vec![0; self.bytes].into())));
                // Its memory is reused. States of another keeper were refused when they were gathered.
                let Some(HostState(bytes)) = state.downcast_mut() else { return };
                for ((strips, tensor), place) in layouts.iter().zip(next).zip(&self.places) {
                    strips.get(tensor.data(), index, &mut bytes[place.range.clone()]);
                }
            });
        }
        Ok(())
    }

    fn make(&self, tensors: &[Tensor]) -> Result<StreamState, RunError> {
        let mut bytes = Vec::with_capacity(self.bytes);
        tensors.iter().for_each(|tensor| bytes.extend_from_slice(tensor.data()));
        let fits = |(tensor, place): (&Tensor, &Place)| {
            tensor.datatype() == place.spec.datatype && tensor.shape() == &place.spec.dims[..]
        };
        if tensors.len() != self.places.len() || !tensors.iter().zip(&self.places).all(fits) {
            return Err(RunError::BadBatch("the tensors are not those of the model's states".to_owned()));
        }
        Ok(StreamState::holding(HostState(bytes.into())))
    }

    fn read(&self, state: &StreamState) -> Option<Vec<Tensor>> {
        state.with(|state| {
            let bytes = self.bytes_of(state.as_deref()?)?;
            let tensor = |place: &Place| {
                let data = bytes[place.range.clone()].to_vec();
                Tensor::new(place.spec.datatype, place.spec.dims.clone(), data.into()).ok()
            };
            self.places.iter().map(tensor).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use tidemill_domain::{Datatype, Shape};

    fn spec(name: &str, dims: &[usize]) -> StateSpec {
        StateSpec {
            input: name.into(),
            output: format!("{name}_next").into(),
            datatype: Datatype::Fp32,
            dims: Shape::from_slice(dims),
            batch_axis: Some(0),
        }
    }

    #[test]
    fn a_state_gives_back_the_tensors_that_it_was_made_of() {
        let keeper = HostStates::new(&[spec("h", &[2]), spec("c", &[1])]).expect("of fixed size");
        let tensors = [Tensor::from_f32(&[1.0, 2.0]), Tensor::from_f32(&[3.0])];
        let state = keeper.make(&tensors).expect("as the signature says");
        assert_eq!(keeper.read(&state).as_deref(), Some(&tensors[..]));
        assert_eq!(keeper.read(&StreamState::default()), None, "nothing has run");
        for wrong in [&tensors[..1], &[tensors[1].clone(), tensors[0].clone()]] {
            assert!(keeper.make(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn states_lie_side_by_side_and_a_stream_that_is_new_brings_zeros() {
        let keeper = HostStates::new(&[spec("h", &[2]), spec("c", &[1])]).expect("of fixed size");
        let old = keeper.make(&[Tensor::from_f32(&[1.0, 2.0]), Tensor::from_f32(&[3.0])]).expect("as the signature says");
        let new = StreamState::default();
        let items = [&new, &old].map(|state| ItemCall { inputs: &[], state: Some(state) });
        let mut batch = [AlignedBuffer::default(), AlignedBuffer::default()];
        keeper.gather(&items, &mut batch).expect("both are of this model");
        let numbers = |buffer: &AlignedBuffer| bytemuck::pod_collect_to_vec::<u8, f32>(buffer);
        assert_eq!(numbers(&batch[0]), [0.0, 0.0, 1.0, 2.0]);
        assert_eq!(numbers(&batch[1]), [0.0, 3.0]);
        let pair = |numbers: &[f32], shape: Shape| {
            Tensor::new(Datatype::Fp32, shape, bytemuck::cast_slice(numbers).to_vec().into()).expect("as long as it must be")
        };
        let next = [pair(&[4.0, 5.0, 6.0, 7.0], smallvec![2, 2]), pair(&[8.0, 9.0], smallvec![2, 1])];
        keeper.scatter(&items, &[&next[0], &next[1]]).expect("as the signature says");
        let kept = |state| keeper.read(state).expect("it has run");
        assert_eq!(kept(&new), [Tensor::from_f32(&[4.0, 5.0]), Tensor::from_f32(&[8.0])]);
        assert_eq!(kept(&old), [Tensor::from_f32(&[6.0, 7.0]), Tensor::from_f32(&[9.0])]);
    }

    #[test]
    fn a_state_keeps_its_memory() {
        let keeper = HostStates::new(&[spec("h", &[2])]).expect("of fixed size");
        let state = StreamState::default();
        let step = |numbers: [f32; 2]| {
            let shape = smallvec![1, 2];
            let next = Tensor::new(Datatype::Fp32, shape, bytemuck::cast_slice(&numbers).to_vec().into()).expect("two numbers");
            keeper.scatter(&[ItemCall { inputs: &[], state: Some(&state) }], &[&next]).expect("as the signature says");
            state.with(|state| keeper.bytes_of(state.as_deref().expect("it has run")).expect("of this keeper").as_ptr().addr())
        };
        assert_eq!(step([1.0, 2.0]), step([3.0, 4.0]));
        assert_eq!(keeper.read(&state).as_deref(), Some(&[Tensor::from_f32(&[3.0, 4.0])][..]));
    }

    #[test]
    fn what_another_keeper_made_is_refused() {
        let keeper = HostStates::new(&[spec("h", &[2])]).expect("of fixed size");
        let longer = HostStates::new(&[spec("h", &[3])]).expect("of fixed size");
        let others = longer.make(&[Tensor::from_f32(&[1.0, 2.0, 3.0])]).expect("as the signature says");
        for state in [others, StreamState::holding("of another engine")] {
            let refused = keeper.gather(&[ItemCall { inputs: &[], state: Some(&state) }], &mut [AlignedBuffer::default()]);
            assert_eq!(refused, Err(RunError::BadBatch("item 0 brings the state of another model".to_owned())));
        }
    }
}
