//! How much faster calls of another form of the same model are.

use std::{sync::Arc, time::Duration};

use super::{
    Ranges, Terms,
    alone::found_maker,
    aside::Aside,
    calls::{Caller, Ground},
    company::Company,
    compare::{Answer, Distance, largest},
    items::{Maker, TrialItem},
};
use crate::engine::Executable;

/// Items of the calls that are compared.
const SIZES: [usize; 2] = [1, 8];
/// Calls of each form and size. The fastest counts, as nothing makes a call faster than it is.
const ROUNDS: u32 = 9;
/// No fewer than this.
const ROUNDS_LEAST: u32 = 3;
/// All calls together take at most this part of the model's time, not counting those that find items that it takes.
const SHARE: u32 = 8;
/// Answers of the two forms may be this far apart.
const FAR: f64 = 1e-3;

/// The result of comparing two forms of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// How many times as fast calls of the other form are: the mean over the sizes that were tried. 0 if that could not be found out, or if
    /// it gives different answers.
    pub factor: f64,
    /// Time that it took to find out.
    pub took: Duration,
    /// The kind of items that the model was found to take.
    pub ranges: Option<Ranges>,
}

/// Compares calls of a model on lane number `lane`, whose compute thread calls this, with those of another form of it. Idle lanes keep
/// `company`.
#[must_use]
pub fn gain(this: &Arc<Executable>, other: &Arc<Executable>, lane: usize, terms: &Terms, company: Option<&Company>) -> Gain {
    compare(&[this, other].map(|form| Caller::new(form, Ground::Lane(lane, company), terms.budget)), terms)
}

/// The same while lanes serve other models, with instances that nothing else uses yet.
#[must_use]
pub fn gain_beside(this: &Arc<Executable>, other: &Arc<Executable>, terms: &Terms, aside: &Aside) -> Gain {
    let ground = Ground::Aside(aside, aside.slowness());
    aside.press(|| compare(&[this, other].map(|form| Caller::new(form, ground, terms.budget)), terms))
}

fn compare(forms: &[Caller<'_>; 2], terms: &Terms) -> Gain {
    let maker = found_maker(&forms[0], terms).ok();
    let factors = maker.as_ref().and_then(|maker| factors(forms, maker, terms)).unwrap_or_default();
    let sum: f64 = factors.iter().map(|factor| factor.ln()).sum();
    let factor = if factors.is_empty() { 0.0 } else { (sum / factors.len() as f64).exp() };
    Gain { factor, took: spent(forms), ranges: maker.map(|maker| maker.ranges()) }
}

/// The gain at each size for which there is time.
fn factors(forms: &[Caller<'_>; 2], maker: &Maker<'_>, terms: &Terms) -> Option<Vec<f64>> {
    let item = maker.items()?.into_iter().next()?;
    let share = terms.budget / SHARE;
    let before = spent(forms);
    let spent = || spent(forms) - before;
    let (mut factors, mut per_item) = (Vec::new(), Duration::ZERO);
    for size in SIZES.into_iter().filter(|size| *size <= terms.max_batch) {
        // Assuming that an item takes as long in company as alone.
        if spent() + per_item * (1 + ROUNDS_LEAST) * size as u32 > share {
            break;
        }
        let call: Vec<&TrialItem> = vec![&item; size];
        forms[0].show(&call);
        let mut fastest = [Duration::MAX; 2];
        // The first calls are a warm-up, and show how long the others will take.
        let [first, other] = forms.each_ref().map(|form| form.call(&call));
        let (first, other) = (first.ok()?, other.ok()?);
        if !are_alike(&first.answers, &other.answers) {
            return None;
        }
        let both = first.took + other.took;
        if spent() + both * ROUNDS_LEAST > share {
            break;
        }
        for round in 0..ROUNDS {
            if round >= ROUNDS_LEAST && spent() >= share {
                break;
            }
            for (form, fastest) in forms.iter().zip(&mut fastest) {
                *fastest = form.call(&call).ok()?.took.min(*fastest);
            }
        }
        let [this, other] = fastest.map(|took| took.max(Duration::from_nanos(1)).as_secs_f64());
        factors.push(this / other);
        per_item = fastest.iter().sum::<Duration>() / size as u32;
    }
    Some(factors)
}

fn spent(forms: &[Caller<'_>; 2]) -> Duration {
    forms.iter().map(Caller::took).sum()
}

fn are_alike(answers: &[Answer], others: &[Answer]) -> bool {
    let floor = |answer: &Answer, at: usize| largest(&answer[at]).max(f64::MIN_POSITIVE);
    answers.iter().zip(others).all(|(answer, other)| Distance::between(other, answer, |at| floor(answer, at)).strict() <= FAR)
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{DataType, GraphProto};

    use super::*;
    use crate::{
        domain::{Datatype, Signature, TensorSpec, Verdict},
        engine::{
            LaneThreads, Wishes,
            synthetic::{CostMode, Script, SyntheticControl, SyntheticEngine, SyntheticKind},
            test_models,
        },
        proof::prove,
    };

    fn model(kind: SyntheticKind, cost_per_call: Duration) -> (Arc<Executable>, Arc<SyntheticControl>) {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(4)], batch_axis: Some(0) };
        let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
        // Time spent waiting for a core is not counted, but time spent sleeping is.
        let script = Script { kind, cost_per_call, cost_mode: CostMode::Blocked, ..Script::default() };
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        let control = engine.control();
        let model = Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature");
        (Arc::new(model), control)
    }

    #[test]
    fn the_form_whose_calls_are_shorter_gains() {
        let (slow, slow_calls) = model(SyntheticKind::Double, Duration::from_millis(4));
        let (fast, fast_calls) = model(SyntheticKind::Double, Duration::from_micros(100));
        let terms = Terms { budget: Duration::from_secs(60), ..Terms::default() };
        let found = gain(&slow, &fast, 0, &terms, None);
        assert!(found.factor > 1.5, "{found:?}");
        assert!(found.took >= Duration::from_millis(4), "its calls are counted: {found:?}");
        let sizes = SIZES.len() as u64;
        assert_eq!([slow_calls.calls(), fast_calls.calls()], [(1 + u64::from(ROUNDS)) * sizes; 2]);
        assert!(gain(&fast, &slow, 0, &terms, None).factor < 0.7);
    }

    #[test]
    fn a_form_that_answers_differently_gains_nothing() {
        let (this, _) = model(SyntheticKind::Double, Duration::from_millis(4));
        let (other, _) = model(SyntheticKind::Identity, Duration::ZERO);
        assert_eq!(gain(&this, &other, 0, &Terms::default(), None).factor, 0.0);
    }

    /// A model that looks numbers up in a table of three.
    fn lookup() -> Arc<Executable> {
        let dims: &[Option<usize>] = &[None, Some(4)];
        let file = test_models::write(GraphProto {
            node: vec![test_models::node("Gather", &["table", "x"], "y")],
            initializer: vec![test_models::longs("table", &[3], &[7, -7, 70])],
            input: vec![test_models::value("x", DataType::INT64, dims)],
            output: vec![test_models::value("y", DataType::INT64, dims)],
            ..GraphProto::default()
        });
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Int64, dims: vec![Some(4)], batch_axis: Some(0) };
        let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
        let engine = test_models::loaded("rten", file, Wishes::default()).expect("rten looks things up");
        Arc::new(Executable::new(engine, signature, &[LaneThreads::new()]).expect("it has x and y"))
    }

    #[test]
    fn what_a_model_takes_is_found_once_for_the_comparison_and_the_proof() {
        let terms = Terms { budget: Duration::from_secs(60), ..Terms::default() };
        let (this, other) = (lookup(), lookup());
        let Gain { factor, ranges, .. } = gain(&this, &other, 0, &terms, None);
        assert!(factor > 0.0, "items were found that the table has");
        let ranges = ranges.expect("found");
        let found = Terms { ranges: Some(ranges.clone()), ..terms.clone() };
        let again = gain(&this, &other, 0, &found, None);
        assert_eq!(again.ranges, Some(ranges));
        let proof = prove(&this, 0, &found, None).expect("it runs");
        assert_eq!(proof.batching.verdict, Verdict::Independent, "{proof:?}");
    }

    #[test]
    fn calls_that_would_take_too_much_of_the_models_time_are_not_made() {
        let (this, calls) = model(SyntheticKind::Double, Duration::from_millis(20));
        let (other, _) = model(SyntheticKind::Double, Duration::ZERO);
        let terms = Terms { budget: Duration::from_millis(40), ..Terms::default() };
        assert_eq!(gain(&this, &other, 0, &terms, None).factor, 0.0);
        assert_eq!(calls.calls(), 1);
    }
}
