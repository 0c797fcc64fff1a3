//! Streams step by step: the state that one item leaves is what the stream's next one begins with.
//!
//! A coupling too weak to see in one call may add up in a state, act on the state alone, or begin only after some steps. From step
//! to step, calls vary in size and streams in their place.

use std::time::Duration;

use super::{
    alone::Alone,
    calls::Caller,
    compare::{Answer, Distance, FAR_FLOOR},
    items::{Character, TrialItem},
    observed::Steps,
    verdict::Tolerance,
};
use crate::{domain::Tensor, engine::RunError};

/// Steps of each stream.
pub(super) const STEPS: u64 = 16;
/// Items in the calls of a stream's steps, in turn.
const SIZES: [usize; 5] = [4, 3, 8, 5, 2];
/// The same for models that are too slow for these.
const SIZES_LEAST: [usize; 1] = [2];

/// A stream in a call: what it sends, and whether it is nudged.
#[derive(Clone, Copy)]
struct Stream {
    character: Character,
    is_nudged: bool,
}

/// One stream's answers, by step.
type Track = Vec<Answer>;

/// The least time that a model needs for its steps if an item takes this long.
pub(super) fn least(per_item: Duration) -> Duration {
    per_item * cost(&SIZES_LEAST)
}

/// Items of all calls: two series in company, and one stream alone for each of the one or two that are watched.
fn cost(sizes: &[usize]) -> u32 {
    let watched = watched(sizes);
    (0..STEPS as usize).map(|step| (2 * sizes[step % sizes.len()] + watched) as u32).sum()
}

/// Streams that are watched in calls of these sizes.
fn watched(sizes: &[usize]) -> usize {
    if sizes.len() > 1 { 2 } else { 1 }
}

/// Runs streams for [`STEPS`] steps: on their own, next to calm ones, and next to loud ones.
pub(super) fn run(caller: &Caller<'_>, alone: &Alone<'_>, per_item: Duration, tolerance: &Tolerance) -> Steps {
    let series = [&SIZES[..], &SIZES_LEAST];
    let affordable = series.into_iter().find(|sizes| caller.affords(per_item * cost(sizes)));
    let Some(sizes) = affordable else { return Steps::default() };
    match compare(caller, alone, sizes, tolerance) {
        Ok(steps) => steps,
        Err(failed) => Steps { failed, ..Steps::default() },
    }
}

/// The error is that of the call that failed; it is absent if an item could not be made.
fn compare(caller: &Caller<'_>, alone: &Alone<'_>, sizes: &[usize], tolerance: &Tolerance) -> Result<Steps, Option<RunError>> {
    use Character::{Loud, Mirror, Offset, Positive, Quiet, Tiny, Unit, Zero};
    let stream = |character| Stream { character, is_nudged: false };
    let takes = |character: &Character| alone.items.iter().any(|item| item.character == *character);
    let choose = |wanted: &[Character]| {
        let chosen: Vec<Stream> = wanted.iter().copied().filter(takes).map(stream).collect();
        if chosen.is_empty() { vec![stream(Unit)] } else { chosen }
    };
    let (calm, loud) = (choose(&[Quiet, Zero, Tiny]), choose(if takes(&Loud) { &[Loud] } else { &[Mirror] }));
    let targets = [stream(Unit), choose(&[Offset, Positive])[0]];
    let targets = &targets[..watched(sizes)];
    let beside_calm = tracks(caller, alone, targets, &calm, sizes)?;
    let beside_loud = tracks(caller, alone, targets, &loud, sizes)?;
    let floors = alone.sizes();
    let mut steps = Steps::default();
    for (at, target) in targets.iter().enumerate() {
        let by_itself = track(caller, alone, *target)?;
        for (step, wanted) in by_itself.iter().enumerate() {
            let (calm, loud) = (&beside_calm[at][step], &beside_loud[at][step]);
            let size = sizes[step % sizes.len()];
            let near = Distance::between(loud, calm, |at| floors[at] * 1e-6);
            steps.near.take(near.strict(), near.output, size);
            steps.far.take(at, Distance::between(calm, wanted, |at| floors[at] * FAR_FLOOR), size);
        }
        if tolerance.steps_are_far(&steps) {
            // A state may amplify rounding, more so the longer it goes on.
            let nudged = track(caller, alone, Stream { is_nudged: true, ..*target })?;
            let mut worst = Distance::default();
            for (moved, answer) in nudged.iter().zip(&by_itself) {
                worst.widen(Distance::between(moved, answer, |at| floors[at] * FAR_FLOOR));
            }
            steps.fragile.insert(at, worst);
        }
    }
    steps.is_whole = true;
    Ok(steps)
}

/// A stream on its own.
fn track(caller: &Caller<'_>, alone: &Alone<'_>, stream: Stream) -> Result<Track, Option<RunError>> {
    tracks(caller, alone, &[stream], &[], &[1]).map(|tracks| tracks.into_iter().flatten().collect())
}

/// Runs streams in one call per step, with others in the remaining places; returns the tracks of the streams.
fn tracks(
    caller: &Caller<'_>,
    alone: &Alone<'_>,
    streams: &[Stream],
    others: &[Stream],
    sizes: &[usize],
) -> Result<Vec<Track>, Option<RunError>> {
    let most = sizes.iter().copied().max().unwrap_or_default().max(streams.len());
    let others = others.iter().cycle().take(most - streams.len());
    let all: Vec<Stream> = streams.iter().chain(others).copied().collect();
    let mut states: Vec<Option<Vec<Tensor>>> = vec![None; all.len()];
    let mut tracks: Vec<Track> = vec![Vec::new(); streams.len()];
    for step in 0..STEPS as usize {
        let size = sizes[step % sizes.len()].max(streams.len());
        // Streams move on by one place in each step.
        let places: Vec<usize> = (0..size).map(|place| (place + step) % size).collect();
        let made = places.iter().map(|at| {
            let stream = all[*at];
            let item = alone.maker.item(stream.character, step as u64)?;
            let item = if stream.is_nudged { alone.maker.nudged(&item, step as u64, 1.0).unwrap_or(item) } else { item };
            Some(TrialItem { state: states[*at].clone(), ..item })
        });
        let items: Vec<TrialItem> = made.collect::<Option<_>>().ok_or(None)?;
        let reply = caller.call(&items.iter().collect::<Vec<_>>()).map_err(Some)?;
        for ((at, answer), state) in places.iter().zip(reply.answers).zip(reply.states) {
            states[*at] = state;
            if let Some(track) = tracks.get_mut(*at) {
                track.push(answer);
            }
        }
    }
    Ok(tracks)
}
