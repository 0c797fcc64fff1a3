//! Streams step by step: the state that an item leaves is what its stream's next one begins with.
//!
//! A coupling too weak to see in one call may add up in a state, or act on the state alone.

use std::time::Duration;

use super::{
    alone::Alone,
    calls::Caller,
    compare::{Answer, Distance},
    items::{Character, TrialItem},
    together::{Far, Worst},
};
use crate::{domain::StateBuffers, engine::RunError};

/// Steps of each stream.
pub(super) const STEPS: u64 = 16;

/// What the steps have shown.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// How far a stream moved when only its neighbours changed.
    pub(super) near: Worst,
    /// How far a stream in company was from the same stream alone.
    pub(super) far: Far,
    /// A call that failed.
    pub(super) failed: Option<RunError>,
    /// Whether all steps were made.
    pub(super) is_whole: bool,
}

/// One stream's answers, by step.
type Track = Vec<Answer>;

/// Runs streams for [`STEPS`] steps: by themselves, beside calm ones, and beside loud ones.
pub(super) fn run(caller: &Caller<'_>, alone: &Alone<'_>, call_of_two: Duration) -> Steps {
    let mut steps = Steps::default();
    let expected = alone.took * 2 + call_of_two * 4;
    if !caller.affords(expected * STEPS as u32) {
        return steps;
    }
    let has = |character: Character| alone.items.iter().any(|item| item.character == character);
    let choose = |wanted: [Character; 2]| if has(wanted[0]) { wanted[0] } else { wanted[1] };
    let (calm, loud) = (choose([Character::Quiet, Character::Zero]), choose([Character::Loud, Character::Mirror]));
    let targets = [Character::Unit, choose([Character::Offset, Character::Positive])];
    let together = |neighbour| [targets[0], neighbour, targets[1], neighbour];
    let runs = [&targets[..1], &targets[1..], &together(calm)[..], &together(loud)[..]].map(|cast| track(caller, alone, cast));
    let [first, second, calm, loud] = match runs.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(tracks) => match <[Vec<Track>; 4]>::try_from(tracks) {
            Ok(tracks) => tracks,
            Err(_) => return steps,
        },
        Err(failed) => {
            steps.failed = failed;
            return steps;
        }
    };
    let sizes = alone.sizes();
    for (place, alone) in [(0, &first[0]), (2, &second[0])] {
        for ((calm, loud), alone) in calm[place].iter().zip(&loud[place]).zip(alone) {
            let near = Distance::between(loud, calm, |at| sizes[at] * 1e-6);
            steps.near.take(near.strict(), near.output, 4);
            steps.far.take(Distance::between(calm, alone, |at| sizes[at] * 1e-3), 4);
        }
    }
    steps.is_whole = true;
    steps
}

/// Runs these streams in one call a step. An error is that of the call that failed, or none if an item could not be made.
fn track(caller: &Caller<'_>, alone: &Alone<'_>, cast: &[Character]) -> Result<Vec<Track>, Option<RunError>> {
    let mut states: Vec<Option<StateBuffers>> = vec![None; cast.len()];
    let mut tracks: Vec<Track> = vec![Vec::new(); cast.len()];
    for step in 0..STEPS {
        let made = cast.iter().zip(&states).map(|(character, state)| {
            let item = alone.maker.item(*character, step)?;
            Some(TrialItem { state: state.clone(), ..item })
        });
        let items: Vec<TrialItem> = made.collect::<Option<_>>().ok_or(None)?;
        let reply = caller.call(&items.iter().collect::<Vec<_>>()).map_err(Some)?;
        states = reply.states;
        for (track, answer) in tracks.iter_mut().zip(reply.answers) {
            track.push(answer);
        }
    }
    Ok(tracks)
}
