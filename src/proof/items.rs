//! Made-up items of different characters: calm ones and loud ones, whose values show what one does to another.
//!
//! Knows signatures; makes no call.

use smallvec::SmallVec;

use super::Terms;
use crate::domain::{
    Datatype, ElementBytes, ItemInputs, PaddingRule, Shape, Signature, Tensor, TensorSpec, data_bytes, element_count,
    push_element,
};

/// Bytes of a single made-up input.
const INPUT_BYTES_MAX: usize = 1 << 28;
/// Bytes of all made-up items of a model; if items are too large, they are made in fewer characters.
const ITEMS_BYTES_MAX: usize = 1 << 29;
/// Beyond the steps of any stream.
const FIRST_STRANGER: u64 = 1 << 32;
/// Size given to dynamic dimensions, such as the length of a text, followed by those to try if that does not run: some models take at least
/// a frame of audio, a second of it, or a single token.
pub(super) const LENGTHS: [usize; 7] = [32, 160, 512, 1_280, 16_000, 64, 1];
/// Lengths of items that are padded by many times their own length: what padding does to a maximum or a mean shows in short items of the
/// usual size.
const SHORT_LENGTHS: [usize; 3] = [1, 2, 3];
/// Upper bounds of integer values; the search for the largest begins at the first one that runs. There are no larger ones: a number may be
/// a size to allocate.
pub(super) const TOPS: [u32; 6] = [1_000, 100, 30, 8, 2, 1];

/// What an item is like. The strongest couplings show between items whose sizes differ most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Character {
    /// Around 0, of size 1.
    Unit,
    /// Up to a thousand times as large.
    Loud,
    Zero,
    /// [`Character::Loud`] with the opposite sign.
    Mirror,
    /// A thousandth of the size, and all below 0.
    Quiet,
    /// Around 3.
    Offset,
    Positive,
    /// A millionth of the size.
    Tiny,
    /// [`Character::Unit`] with the opposite sign: of the two, one is on the far side of any threshold.
    Opposite,
}

impl Character {
    pub(super) const ALL: [Self; 9] =
        [Self::Unit, Self::Loud, Self::Zero, Self::Mirror, Self::Quiet, Self::Offset, Self::Positive, Self::Tiny, Self::Opposite];

    /// The character that the values are drawn from: a mirror has the values of the one that it mirrors.
    const fn source(self) -> u64 {
        match self {
            Self::Mirror => Self::Loud as u64,
            Self::Opposite => Self::Unit as u64,
            other => other as u64,
        }
    }

    const fn is_large(self) -> bool {
        matches!(self, Self::Loud | Self::Mirror)
    }

    fn float(self, z: f64, scale: f64) -> f64 {
        match self {
            Self::Unit => z,
            Self::Loud => scale * z,
            Self::Zero => 0.0,
            Self::Mirror => -scale * z,
            Self::Quiet => -z.abs() / scale,
            Self::Offset => 3.0 + z / 2.0,
            Self::Positive => z.abs(),
            Self::Tiny => z / (scale * scale),
            Self::Opposite => -z,
        }
    }

    /// An integer below `top`, from a number below 1.
    fn integer(self, uniform: f64, top: u32) -> u32 {
        let below = |top: u32| (uniform * f64::from(top.max(1))) as u32;
        match self {
            Self::Zero => 0,
            Self::Quiet => below(top / 20),
            Self::Tiny => below(top / 60),
            Self::Mirror | Self::Opposite => top.saturating_sub(1) - below(top),
            Self::Unit | Self::Loud | Self::Offset | Self::Positive => below(top),
        }
    }

    const fn boolean(self, uniform: f64) -> bool {
        match self {
            Self::Zero | Self::Quiet => false,
            Self::Positive => true,
            Self::Mirror | Self::Opposite => uniform >= 0.5,
            _ => uniform < 0.5,
        }
    }

    /// How many elements a mask of this width marks, from the first on. A mask that is the same for all items would not show what masks do
    /// to others.
    const fn marked(self, width: usize) -> usize {
        match self {
            Self::Loud | Self::Positive => width - width / 4,
            Self::Mirror => width - width / 2,
            Self::Unit | Self::Zero | Self::Quiet | Self::Offset | Self::Tiny | Self::Opposite => width,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Unit => "Oslo",
            Self::Loud => "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            Self::Zero => "",
            Self::Mirror => "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
            Self::Quiet => "0",
            Self::Offset => "1.5",
            Self::Positive => "äöü",
            Self::Tiny => "7",
            Self::Opposite => "Lima",
        }
    }

    const fn digits(self) -> &'static str {
        match self {
            Self::Unit => "17",
            Self::Loud => "00000000000000000000000000009000",
            Self::Zero => "0",
            Self::Mirror => "-9000",
            Self::Quiet => "1",
            Self::Offset => "3",
            Self::Positive => "44",
            Self::Tiny => "00000000",
            Self::Opposite => "-17",
        }
    }

    /// Length of a padded item, between `least` and `most`. Lengths differ, so that calm items are padded next to loud ones.
    fn length(self, least: usize, most: usize) -> usize {
        let share = match self {
            Self::Unit | Self::Loud | Self::Mirror => 32,
            Self::Zero => 24,
            Self::Positive => 28,
            Self::Quiet | Self::Opposite => 17,
            Self::Offset => 9,
            Self::Tiny => 1,
        };
        (most * share).div_ceil(32).clamp(least.min(most), most)
    }
}

/// How values are drawn. Models that fail with the first way are tried with the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recipe {
    /// Ratio between a loud and a calm item.
    scale: f64,
    /// Whether all numbers are above 0, for models that take a logarithm or a root.
    positive: bool,
    /// Whether strings are numbers.
    digits: bool,
    /// Upper bound of integers.
    top_max: u32,
    /// Whether masks are 0 throughout.
    masks_zero: bool,
}

pub(super) const RECIPES: [Recipe; 4] = [
    Recipe { scale: 1_000.0, positive: false, digits: false, top_max: 1_000, masks_zero: false },
    Recipe { scale: 30.0, positive: false, digits: true, top_max: 1_000, masks_zero: false },
    Recipe { scale: 30.0, positive: true, digits: true, top_max: 1_000, masks_zero: false },
    Recipe { scale: 3.0, positive: true, digits: true, top_max: 2, masks_zero: true },
];

/// An item of a trial call.
#[derive(Debug, Clone)]
pub(super) struct TrialItem {
    pub(super) character: Character,
    pub(super) inputs: ItemInputs,
    /// The state that its stream is assumed to have; `None` for the zeros that a stream begins with.
    pub(super) state: Option<Vec<Tensor>>,
}

/// What items are made for.
#[derive(Debug, Clone)]
pub(super) struct Maker<'a> {
    signature: &'a Signature,
    seed: u64,
    /// Items from the manifest, which are used as they are and as material for others.
    examples: &'a [ItemInputs],
    pub(super) recipe: Recipe,
    /// Size of dynamic dimensions.
    pub(super) length: usize,
    /// Upper bound of each input's integers.
    pub(super) tops: SmallVec<[u32; 4]>,
    /// Whether all items have the same length.
    pub(super) equal_lengths: bool,
    /// Elements beyond the minimum that an item of usual size has, if it is to be a short one.
    short: Option<usize>,
    /// Whether integers are as large as possible, to see whether the model takes them.
    probes: bool,
}

/// How long dynamic dimensions and how large integers are, so that a model takes what is made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    length: usize,
    tops: SmallVec<[u32; 4]>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(signature: &'a Signature, terms: &'a Terms) -> Self {
        let Terms { examples, seed, ranges, .. } = terms;
        let ranges = ranges.clone().unwrap_or_else(|| Ranges {
            length: LENGTHS[0],
            tops: signature.inputs.iter().map(|input| first_top(input.datatype)).collect(),
        });
        let (Ranges { length, tops }, seed) = (ranges, *seed);
        Self { signature, seed, examples, recipe: RECIPES[0], length, tops, equal_lengths: false, short: None, probes: false }
    }

    /// What it makes items from, for other makers.
    pub(super) fn ranges(&self) -> Ranges {
        Ranges { length: self.length, tops: self.tops.clone() }
    }

    /// The same for the shortest items that share calls, if those made so far were different.
    pub(super) fn shortest(&self) -> Option<Self> {
        let first = *self.signature.padding.as_ref()?.buckets.first()?;
        (first < self.length).then(|| Self { length: first, ..self.clone() })
    }

    /// An item whose integers are as large as possible: a model that takes it takes all others.
    pub(super) fn probe(&self) -> Option<TrialItem> {
        Self { probes: true, ..self.clone() }.item(Character::Unit, 0)
    }

    /// Positions of the inputs that take integers of unknown range.
    pub(super) fn integers(&self) -> impl Iterator<Item = usize> + '_ {
        let inputs = self.signature.inputs.iter().enumerate();
        let unknown = inputs.filter(|(position, input)| is_integer(input.datatype) && !self.is_mask(*position, input));
        unknown.filter(|(_, input)| !self.is_length(input)).map(|(position, _)| position)
    }

    /// Whether the length of items matters at all.
    pub(super) fn has_dynamic_dims(&self) -> bool {
        !self.signature.has_fixed_shapes()
    }

    /// Items of all characters, as far as memory allows; `None` if not even one can be made.
    pub(super) fn items(&self) -> Option<Vec<TrialItem>> {
        let first = self.item(Character::Unit, 0)?;
        let bytes = data_bytes(&first.inputs);
        let affordable = Self::affordable(bytes).min(Character::ALL.len());
        let mut items: Vec<TrialItem> = self.examples.iter().take(affordable).map(example).collect();
        if items.is_empty() {
            items.push(first);
        }
        // Made-up items are the company of the examples.
        let made = Character::ALL.into_iter().filter(|character| *character != Character::Unit);
        let wanted = affordable.saturating_sub(items.len()).max(usize::from(affordable > 1));
        items.extend(made.take(wanted).filter_map(|character| self.item(character, 0)));
        if self.signature.padding.is_some()
            && !self.equal_lengths
            && self.examples.is_empty()
            && affordable == Character::ALL.len()
        {
            let short = |length: &usize| Self { short: Some(*length), ..self.clone() }.item(Character::Unit, *length as u64);
            items.extend(SHORT_LENGTHS.iter().filter_map(short));
        }
        for item in &mut items {
            item.state = self.state(item.character);
        }
        Some(items)
    }

    /// How many items of this size are made at most.
    pub(super) fn affordable(bytes: usize) -> usize {
        (ITEMS_BYTES_MAX / bytes.max(1)).max(1)
    }

    /// An item that differs from all others of its character, and is in the same state. If lengths differ, it may have any, but is more
    /// often short.
    pub(super) fn stranger(&self, character: Character, number: u64) -> Option<TrialItem> {
        let part = self.chance(FIRST_STRANGER + number, character, usize::MAX).f64().powi(3);
        let maker = Self { short: Some(1 + (part * self.length as f64) as usize), ..self.clone() };
        let item = maker.item(character, FIRST_STRANGER + number)?;
        Some(TrialItem { state: self.state(character), ..item })
    }

    /// An item, as its stream would bring it at a step. It has no state.
    pub(super) fn item(&self, character: Character, step: u64) -> Option<TrialItem> {
        let inputs = if self.examples.is_empty() {
            let specs = self.signature.inputs.iter().enumerate();
            specs.map(|(position, spec)| self.tensor(character, step, position, spec)).collect::<Option<_>>()?
        } else {
            let example = &self.examples[(step as usize + character.source() as usize) % self.examples.len()];
            example.iter().map(|tensor| varied(tensor, character)).collect::<Option<_>>()?
        };
        Some(TrialItem { character, inputs, state: None })
    }

    /// The same with numbers moved by a few units in the last place, or by `times` as much, each `turn` in a different way: how far its
    /// answer moves is what rounding can do.
    pub(super) fn nudged(&self, item: &TrialItem, turn: u64, times: f64) -> Option<TrialItem> {
        let mut chance = self.chance(u64::MAX - 2 - turn, item.character, 0);
        let nudge = |tensor: &Tensor| {
            is_float(tensor.datatype()).then(|| {
                let size = match tensor.datatype() {
                    Datatype::Fp16 => 1e-3,
                    Datatype::Bf16 => 8e-3,
                    _ => 1e-6,
                };
                let values = floats(tensor).map(|value| value * (1.0 + times * size * normal(&mut chance)));
                let elements = values.flat_map(|value| float_element(tensor.datatype(), value)).collect::<Vec<u8>>();
                Tensor::new(tensor.datatype(), tensor.shape().into(), elements.into()).ok()
            })
        };
        let nudged: Vec<Option<Option<Tensor>>> = item.inputs.iter().map(nudge).collect();
        nudged.iter().any(Option::is_some).then(|| {
            let inputs = item.inputs.iter().zip(nudged).map(|(before, after)| after.flatten().unwrap_or_else(|| before.clone()));
            TrialItem { inputs: inputs.collect(), ..item.clone() }
        })
    }

    fn chance(&self, step: u64, character: Character, position: usize) -> fastrand::Rng {
        let parts = [step, character.source(), position as u64];
        fastrand::Rng::with_seed(parts.into_iter().fold(self.seed, |seed, part| {
            // Steele, Lea and Flood's mixing of two numbers into one (SplitMix64).
            let mixed = (seed ^ part.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        }))
    }

    fn is_mask(&self, position: usize, input: &TensorSpec) -> bool {
        self.signature.padding.as_ref().and_then(|rule| rule.mask) == Some(position) || input.name.to_lowercase().contains("mask")
    }

    /// Whether an input states the length of another one: a lone integer next to an input of any length.
    fn is_length(&self, input: &TensorSpec) -> bool {
        let is_lone = input.dims.iter().all(|dim| *dim == Some(1));
        is_lone && is_integer(input.datatype) && self.has_dynamic_dims()
    }

    /// The length of an item of this character.
    fn length(&self, character: Character) -> usize {
        let Some(rule) = self.signature.padding.as_ref().filter(|_| !self.equal_lengths) else {
            return self.signature.padding.as_ref().map_or(self.length, |rule| bucket_of(rule, self.length).1);
        };
        let (least, most) = bucket_of(rule, self.length);
        match self.short {
            Some(short) => (least + short - 1).min(most),
            None => character.length(least, most),
        }
    }

    /// The length that an item's own input states. Where nothing pads, a client may state less than it sends.
    fn stated_length(&self, character: Character) -> usize {
        let length = self.length(character);
        match character {
            Character::Positive | Character::Quiet | Character::Loud if self.signature.padding.is_none() => length - length / 4,
            _ => length,
        }
    }

    fn shape(&self, character: Character, position: usize, spec: &TensorSpec) -> Shape {
        let padded = self.signature.padding.as_ref().and_then(|rule| rule.input(position)).map(|input| input.axis);
        let sizes = spec.dims.iter().enumerate();
        let dynamic = |axis| if padded == Some(axis) { self.length(character) } else { self.length };
        sizes.map(|(axis, dim)| dim.unwrap_or_else(|| dynamic(axis))).collect()
    }

    fn tensor(&self, character: Character, step: u64, position: usize, spec: &TensorSpec) -> Option<Tensor> {
        let shape = self.shape(character, position, spec);
        let count = element_count(&shape)?;
        count.checked_mul(spec.datatype.least_size()).filter(|bytes| *bytes <= INPUT_BYTES_MAX)?;
        let mut chance = self.chance(step, character, position);
        let mut data = Vec::new();
        if spec.datatype == Datatype::Bytes {
            let text = if self.recipe.digits { character.digits() } else { character.text() };
            for _ in 0..count {
                push_element(&mut data, text.as_bytes()).ok()?;
            }
        } else {
            let width = shape.last().copied().unwrap_or(1).max(1);
            for at in 0..count {
                data.extend_from_slice(&self.element(character, position, spec, (at, width), &mut chance)?);
            }
        }
        Tensor::new(spec.datatype, shape, data.into()).ok()
    }

    /// Element number `at` of a tensor whose last dimension has `width` elements.
    fn element(
        &self,
        character: Character,
        position: usize,
        spec: &TensorSpec,
        (at, width): (usize, usize),
        chance: &mut fastrand::Rng,
    ) -> Option<ElementBytes> {
        let datatype = spec.datatype;
        if self.is_mask(position, spec) {
            let one = datatype.one()?;
            let is_one = at % width < character.marked(width) && !self.recipe.masks_zero;
            return Some(if is_one { one.into() } else { ElementBytes::from_elem(0, one.len()) });
        }
        if is_float(datatype) {
            let scale = if datatype == Datatype::Fp16 { self.recipe.scale.min(100.0) } else { self.recipe.scale };
            // A rule may set in at any size of a number, so every second large one has a random size.
            let scale = if character.is_large() && at % 2 == 1 { scale.powf(chance.f64()) } else { scale };
            let value = character.float(normal(chance), scale);
            return Some(float_element(datatype, if self.recipe.positive { value.abs() } else { value }));
        }
        if datatype == Datatype::Bool {
            return Some(ElementBytes::from_elem(u8::from(character.boolean(chance.f64())), 1));
        }
        let value = if self.is_length(spec) {
            u32::try_from(self.stated_length(character)).ok()?
        } else {
            let top = self.tops[position].min(self.recipe.top_max);
            if self.probes { top.saturating_sub(1) } else { character.integer(chance.f64(), top) }
        };
        let mut element = ElementBytes::from(u64::from(value).to_le_bytes());
        element.truncate(datatype.fixed_size()?);
        Some(element)
    }

    /// States between -3 and 3 or so, and those of small characters small. States far outside what a model makes prove nothing.
    fn state(&self, character: Character) -> Option<Vec<Tensor>> {
        if !self.signature.is_stateful() || character == Character::Zero {
            return None;
        }
        let tensors = self.signature.states.iter().enumerate().map(|(index, spec)| {
            let mut chance = self.chance(u64::MAX - 1, character, index);
            let count = element_count(&spec.dims)?;
            let element = |chance: &mut fastrand::Rng| {
                if is_float(spec.datatype) {
                    return Some(float_element(spec.datatype, character.float(normal(chance), 1.0)));
                }
                Some(ElementBytes::from_elem(0, spec.datatype.fixed_size()?))
            };
            let bytes: Option<Vec<ElementBytes>> = (0..count).map(|_| element(&mut chance)).collect();
            Tensor::new(spec.datatype, spec.dims.clone(), bytes?.concat().into()).ok()
        });
        tensors.collect()
    }
}

fn example(inputs: &ItemInputs) -> TrialItem {
    TrialItem { character: Character::Unit, inputs: inputs.clone(), state: None }
}

/// An example whose numbers are made loud, quiet, or the opposite of what they are; the rest stays.
fn varied(tensor: &Tensor, character: Character) -> Option<Tensor> {
    let datatype = tensor.datatype();
    if !is_float(datatype) {
        return Some(tensor.clone());
    }
    let vary = |value: f64| match character {
        Character::Offset => value + 3.0,
        Character::Positive => value.abs(),
        other => other.float(value, 30.0),
    };
    let elements: Vec<u8> = floats(tensor).flat_map(|value| float_element(datatype, vary(value))).collect();
    Tensor::new(datatype, tensor.shape().into(), elements.into()).ok()
}

/// Lengths of the bucket that items of this length are in, or those of the last one.
fn bucket_of(rule: &PaddingRule, length: usize) -> (usize, usize) {
    let Some(last) = rule.buckets.last() else { return (1, length) };
    let length = length.min(*last);
    let bucket = rule.bucket(length).unwrap_or_default();
    let below = bucket.checked_sub(1).and_then(|below| rule.buckets.get(below));
    (below.map_or(1, |below| below + 1), length)
}

const fn first_top(datatype: Datatype) -> u32 {
    match datatype {
        Datatype::Uint8 => 256,
        Datatype::Int8 => 100,
        _ => TOPS[0],
    }
}

pub(super) const fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

pub(super) const fn is_integer(datatype: Datatype) -> bool {
    !is_float(datatype) && !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}

/// A standard normal number, by Box and Muller.
fn normal(chance: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - chance.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * chance.f64()).cos()
}

fn float_element(datatype: Datatype, value: f64) -> ElementBytes {
    match datatype {
        Datatype::Fp16 => ElementBytes::from_slice(&half::f16::from_f64(value).to_le_bytes()),
        Datatype::Bf16 => ElementBytes::from_slice(&half::bf16::from_f64(value).to_le_bytes()),
        Datatype::Fp64 => ElementBytes::from_slice(&value.to_le_bytes()),
        _ => ElementBytes::from_slice(&(value as f32).to_le_bytes()),
    }
}

/// The numbers of a tensor of floats; nothing for other tensors.
pub(super) fn floats(tensor: &Tensor) -> Box<dyn Iterator<Item = f64> + '_> {
    fn read<'a, const N: usize>(data: &'a [u8], value: fn([u8; N]) -> f64) -> Box<dyn Iterator<Item = f64> + 'a> {
        Box::new(data.as_chunks::<N>().0.iter().map(move |element| value(*element)))
    }
    let data = tensor.data();
    match tensor.datatype() {
        Datatype::Fp16 => read(data, |element| half::f16::from_le_bytes(element).to_f64()),
        Datatype::Bf16 => read(data, |element| half::bf16::from_le_bytes(element).to_f64()),
        Datatype::Fp32 => read(data, |element| f32::from_le_bytes(element).into()),
        Datatype::Fp64 => read(data, f64::from_le_bytes),
        _ => Box::new(std::iter::empty()),
    }
}
