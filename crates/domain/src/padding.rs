//! How items of different lengths meet in a batch: what is padded, with what, and which items meet.

use smallvec::SmallVec;

use super::{Fault, FaultKind, Shape, Tensor, TensorSpec, element_count};

/// One element of any fixed-size datatype, little-endian.
pub type ElementBytes = SmallVec<[u8; 8]>;

/// How items of different lengths are made equally long. All padded inputs of an item have the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddingRule {
    /// The padded inputs, at least one, by rising position. None is of BYTES, which has no element to pad with.
    pub inputs: Vec<PaddedInput>,
    /// The input that marks which elements are real and which padding, by its position in the signature's inputs. It is one of
    /// the padded inputs, its other dimensions are fixed, and an item sent without it gets one that is all ones.
    pub mask: Option<usize>,
    /// Rising lengths; an item belongs to the first that it does not exceed, and only items of the same bucket meet. Without
    /// buckets all items meet, and no length is too great.
    pub buckets: Vec<usize>,
    /// Whether a batch is padded to its bucket's length rather than to its longest item's.
    pub pad_to_bucket: bool,
}

/// An input that is padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedInput {
    /// Its position in the signature's inputs.
    pub position: usize,
    /// The padded dimension, not counting the batch.
    pub axis: usize,
    /// The element to pad with.
    pub value: ElementBytes,
}

impl PaddingRule {
    /// How the input at this position of the signature is padded, if it is.
    #[must_use]
    pub fn input(&self, position: usize) -> Option<&PaddedInput> {
        self.inputs.iter().find(|input| input.position == position)
    }

    /// The length of an item; 0 if its tensors are missing.
    #[must_use]
    pub fn length(&self, item: &[Tensor]) -> usize {
        let first = self.inputs.first().and_then(|input| item.get(input.position)?.shape().get(input.axis));
        first.copied().unwrap_or_default()
    }

    /// The number of the bucket for items of this length; `None` if they exceed the last.
    #[must_use]
    pub fn bucket(&self, length: usize) -> Option<usize> {
        let bucket = self.buckets.partition_point(|limit| *limit < length);
        (self.buckets.is_empty() || bucket < self.buckets.len()).then_some(bucket)
    }

    /// The length to which a batch is padded if its longest item has the length `longest`.
    #[must_use]
    pub fn padded_length(&self, longest: usize) -> usize {
        let limit = self.bucket(longest).and_then(|bucket| self.buckets.get(bucket).copied());
        limit.filter(|_| self.pad_to_bucket).unwrap_or(longest)
    }

    /// Checks the lengths of an item's tensors, which are in the order of `specs`, and fills in the mask if it was left out.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the lengths differ or are 0, [`FaultKind::TooLarge`] if they exceed the last bucket.
    pub(super) fn complete(&self, specs: &[TensorSpec], slots: &mut [Option<Tensor>]) -> Result<(), Fault> {
        let mut known: Option<(&str, usize)> = None;
        for PaddedInput { position, axis, .. } in &self.inputs {
            let Some(tensor) = &slots[*position] else { continue };
            let (name, length) = (&*specs[*position].name, tensor.shape()[*axis]);
            if length == 0 {
                let message = format!("input '{name}' has length 0; padded inputs need at least one element in each item");
                return Err(Fault::invalid("inputs", message));
            }
            match known {
                Some((first, wanted)) if wanted != length => {
                    let message = format!(
                        "input '{name}' is {length} long, but input '{first}' is {wanted}; \
                         the inputs named in the model's [padding] must have the same length in an item"
                    );
                    return Err(Fault::invalid("inputs", message));
                }
                _ => known = Some((name, length)),
            }
        }
        let Some((name, length)) = known else { return Ok(()) };
        if let (None, Some(limit)) = (self.bucket(length), self.buckets.last()) {
            let message = format!(
                "input '{name}' is {length} long, more than {limit}, the last of padding.buckets in the model's manifest"
            );
            return Err(Fault::new(FaultKind::TooLarge, message)
                .with_field("inputs")
                .with_limit("padding.buckets", *limit as u64));
        }
        if let Some(mask) = self.mask
            && slots[mask].is_none()
        {
            slots[mask] = self.ones(mask, &specs[mask], length);
        }
        Ok(())
    }

    /// A tensor of ones for a mask; `None` if it would be too large to address, has another dynamic dimension, or is of BYTES.
    fn ones(&self, position: usize, spec: &TensorSpec, length: usize) -> Option<Tensor> {
        let axis = self.input(position)?.axis;
        let sizes = spec.dims.iter().enumerate();
        let shape: Shape = sizes.map(|(at, size)| if at == axis { Some(length) } else { *size }).collect::<Option<_>>()?;
        let bytes = element_count(&shape)?.checked_mul(spec.datatype.fixed_size()?)?;
        let elements = spec.datatype.one()?.iter().copied().cycle().take(bytes).collect::<Vec<u8>>();
        Tensor::new(spec.datatype, shape, elements.into()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Datatype, NamedTensor, Signature};

    /// Tokens and their mask, both of any length, and a speaker.
    fn signature(buckets: &[usize]) -> Signature {
        let spec = |name: &str, datatype, dims: &[Option<usize>]| TensorSpec {
            name: name.into(),
            datatype,
            dims: dims.to_vec(),
            batch_axis: Some(0),
        };
        let padded = |position, bytes: usize| PaddedInput { position, axis: 0, value: ElementBytes::from_elem(0, bytes) };
        let rule = PaddingRule {
            inputs: vec![padded(0, 4), padded(1, 8)],
            mask: Some(1),
            buckets: buckets.to_vec(),
            pad_to_bucket: false,
        };
        Signature {
            inputs: vec![
                spec("tokens", Datatype::Int32, &[None]),
                spec("mask", Datatype::Int64, &[None]),
                spec("speaker", Datatype::Uint8, &[Some(1)]),
            ],
            padding: Some(rule),
            ..Signature::default()
        }
    }

    fn tensor(name: &str, length: usize, bytes: usize) -> NamedTensor {
        let shape = vec![i64::try_from(length).expect("small")];
        NamedTensor { name: name.to_owned(), datatype: None, shape, data: vec![0; length * bytes].into() }
    }

    #[test]
    fn a_mask_that_is_left_out_is_all_ones() {
        let item = signature(&[]).check(vec![tensor("speaker", 1, 1), tensor("tokens", 3, 4)]).expect("only the mask is missing");
        assert_eq!(item[1].shape(), &[3]);
        assert_eq!(item[1].data().as_ref(), bytemuck::bytes_of(&[1_i64; 3]));
        let item = signature(&[]).check(vec![tensor("speaker", 1, 1), tensor("tokens", 3, 4), tensor("mask", 3, 8)]);
        assert_eq!(item.expect("all there")[1].data().as_ref(), [0; 24], "a mask that is sent is taken as it is");
    }

    #[test]
    fn other_inputs_cannot_be_left_out() {
        let fault = signature(&[]).check(vec![tensor("speaker", 1, 1)]).expect_err("no tokens");
        assert_eq!(fault.message(), "input 'tokens' is missing");
        let fault = signature(&[]).check(vec![tensor("tokens", 3, 4)]).expect_err("no speaker");
        assert_eq!(fault.message(), "input 'speaker' is missing");
    }

    #[test]
    fn inputs_of_an_item_have_the_same_length() {
        let item = vec![tensor("speaker", 1, 1), tensor("tokens", 3, 4), tensor("mask", 4, 8)];
        let fault = signature(&[]).check(item).expect_err("3 is not 4");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("inputs")));
        assert!(fault.message().starts_with("input 'mask' is 4 long, but input 'tokens' is 3"), "{fault}");
    }

    #[test]
    fn an_item_of_length_zero_is_refused() {
        let fault = signature(&[]).check(vec![tensor("speaker", 1, 1), tensor("tokens", 0, 4)]).expect_err("nothing to pad");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("inputs")));
        assert!(fault.message().starts_with("input 'tokens' has length 0"), "{fault}");
    }

    #[test]
    fn an_item_that_no_bucket_holds_is_refused_by_the_limits_name() {
        let check = |length| signature(&[16, 32]).check(vec![tensor("speaker", 1, 1), tensor("tokens", length, 4)]);
        assert!(check(32).is_ok());
        let fault = check(33).expect_err("above the last");
        assert_eq!(fault.kind(), FaultKind::TooLarge);
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("padding.buckets", 32)));
        assert_eq!(
            fault.message(),
            "input 'tokens' is 33 long, more than 32, the last of padding.buckets in the model's manifest"
        );
    }

    #[test]
    fn an_item_belongs_to_the_first_bucket_that_holds_it() {
        let rule = signature(&[16, 32]).padding.expect("it has one");
        assert_eq!([1, 16, 17, 32, 33].map(|length| rule.bucket(length)), [Some(0), Some(0), Some(1), Some(1), None]);
        let all_meet = signature(&[]).padding.expect("it has one");
        assert_eq!([1, 1_000_000].map(|length| all_meet.bucket(length)), [Some(0), Some(0)]);
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_item_or_to_its_bucket() {
        let mut rule = signature(&[16, 32]).padding.expect("it has one");
        assert_eq!(rule.padded_length(17), 17);
        rule.pad_to_bucket = true;
        assert_eq!([17, 32, 33].map(|longest| rule.padded_length(longest)), [32, 32, 33]);
    }

    #[test]
    fn ones_are_ones_in_every_datatype() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.one().map(<[u8]>::len), datatype.fixed_size(), "{datatype}");
        }
        assert_eq!(Datatype::Fp32.one(), Some(&1_f32.to_le_bytes()[..]));
        assert_eq!(Datatype::Fp64.one(), Some(&1_f64.to_le_bytes()[..]));
        assert_eq!(Datatype::Bf16.one(), Some(&1_f32.to_le_bytes()[2..]), "the upper half of an FP32");
    }
}
