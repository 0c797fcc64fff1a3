//! The rule, checked against a naive account, and what it promises.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_domain::{Address, Peer};

use super::*;

const CAPACITY: usize = 5_600;

fn path(address: u32, connection: u64, tenant: u64) -> Path {
    // Each address has its own connection numbers.
    Path::of(Peer { connection: (u64::from(address) << 32) | connection, address: Address::V4(address) }, tenant)
}

fn local(connection: u64) -> Path {
    Path::of(Peer { connection, address: Address::Local }, 0)
}

/// Takes one at a time for each holder in turn, until nobody may take more.
fn fill(shares: &mut Shares<1>, holders: &[HolderKey]) {
    loop {
        let before = shares.held();
        for holder in holders {
            if shares.held() < shares.limits() && shares.over_share(*holder).is_none() {
                shares.add(*holder, [1]);
            }
        }
        if shares.held() == before {
            return;
        }
    }
}

fn held(shares: &Shares<1>, holder: HolderKey) -> usize {
    let [held] = shares.held_by(holder);
    held
}

#[test]
fn owners_that_want_everything_get_equal_shares_and_something_is_left() {
    for greedy in 1..=20 {
        let mut shares = Shares::new([CAPACITY]);
        let holders: Vec<_> = (1..=greedy).map(|connection| shares.enter(&local(connection))).collect();
        fill(&mut shares, &holders);
        let (least, most) = holders
            .iter()
            .map(|holder| held(&shares, *holder))
            .fold((usize::MAX, 0), |(least, most), held| (least.min(held), most.max(held)));
        assert!(most - least <= 1, "{greedy}: {least} to {most}");
        let free = CAPACITY - shares.held()[0];
        assert!(free >= CAPACITY / (TIMES_FREE * holders.len() + 1), "{greedy}: {free} are left");
        let newcomer = shares.enter(&local(100));
        assert_eq!(shares.over_share(newcomer), None, "{greedy}");
    }
}

#[test]
fn an_owner_that_came_first_and_took_all_it_could_leaves_room_for_others() {
    let mut shares = Shares::new([CAPACITY]);
    let first = shares.enter(&local(1));
    fill(&mut shares, &[first]);
    assert_eq!(held(&shares, first), CAPACITY / 8 * 7);
    let second = shares.enter(&local(2));
    fill(&mut shares, &[first, second]);
    assert!(held(&shares, second) >= CAPACITY / 10, "{}", held(&shares, second));
}

#[test]
fn many_connections_of_an_address_and_many_tenants_of_a_connection_gain_nothing() {
    let mut shares = Shares::new([CAPACITY]);
    let crowd: Vec<_> = (1..=50).map(|connection| shares.enter(&path(1, connection, 0))).collect();
    let single = shares.enter(&path(2, 1, 0));
    let names: Vec<_> = (1..=50).map(|tenant| shares.enter(&path(3, 1, tenant))).collect();
    // Each of the three asks equally often.
    let in_turn: Vec<_> = crowd.iter().zip(&names).flat_map(|(one, name)| [*one, single, *name]).collect();
    fill(&mut shares, &in_turn);
    let held_in = |holders: &[HolderKey]| holders.iter().map(|holder| held(&shares, *holder)).sum::<usize>();
    let (crowd_held, single_held, names_held) = (held_in(&crowd), held(&shares, single), held_in(&names));
    assert!(crowd_held.abs_diff(single_held) <= single_held / 5, "{crowd_held} and {single_held}");
    assert!(names_held.abs_diff(single_held) <= single_held / 5, "{names_held} and {single_held}");
}

#[test]
fn a_connection_that_takes_what_its_address_may_hold_leaves_the_others_of_the_address_some() {
    let mut shares = Shares::new([CAPACITY]);
    let greedy = shares.enter(&path(1, 1, 0));
    fill(&mut shares, &[greedy]);
    let neighbour = shares.enter(&path(1, 2, 0));
    assert_eq!(shares.over_share(neighbour), None);
    fill(&mut shares, &[neighbour]);
    assert!(held(&shares, neighbour) >= CAPACITY / 100, "{}", held(&shares, neighbour));
}

#[test]
fn any_measure_may_be_the_one_that_is_scarce() {
    let mut shares = Shares::new([1_000, 80]);
    let (greedy, other) = (shares.enter(&local(1)), shares.enter(&local(2)));
    shares.add(greedy, [1, 70]);
    assert_eq!((shares.over_share(greedy), shares.over_share(other)), (Some(1), None));
    shares.remove(greedy, [1, 70]);
    shares.add(greedy, [900, 10]);
    assert_eq!((shares.over_share(greedy), shares.over_share(other)), (Some(0), None));
}

#[test]
fn work_without_a_client_is_not_limited_to_a_share() {
    let mut shares = Shares::new([80]);
    let own = shares.enter(&Path::default());
    shares.add(own, [79]);
    assert_eq!((shares.over_share(own), shares.held(), shares.holders()), (None, [79], 0));
    shares.remove(own, [79]);
    shares.leave(own);
    assert_eq!(shares.held(), [0]);
}

proptest! {
    /// Sums agree with a naive account at each level; nobody is refused while half is free; a holder that holds nothing, on any
    /// of its levels, may take as long as anything is left; what nobody uses is forgotten.
    #[test]
    fn the_account_adds_up(steps in proptest::collection::vec((0..4_u32, 0..3_u64, 0..3_u64, 0..30_usize, any::<bool>()), 0..200)) {
        let mut shares = Shares::new([100]);
        let mut holders: BTreeMap<(u32, u64, u64), (HolderKey, usize)> = BTreeMap::new();
        for (address, connection, tenant, amount, takes) in steps {
            let place = (address, connection + 1, tenant);
            let (holder, has) = *holders.entry(place).or_insert_with(|| (shares.enter(&path(address, connection + 1, tenant + 1)), 0));
            let [sum] = shares.held();
            if takes && sum + amount <= 100 {
                shares.add(holder, [amount]);
                holders.insert(place, (holder, has + amount));
            } else if !takes {
                let less = amount.min(has);
                shares.remove(holder, [less]);
                holders.insert(place, (holder, has - less));
            }
            let [sum] = shares.held();
            let sum_of = |same: &dyn Fn(&(u32, u64, u64)) -> bool| -> usize {
                holders.iter().filter(|(place, _)| same(place)).map(|(_, (_, held))| held).sum()
            };
            prop_assert_eq!(sum, sum_of(&|_| true));
            for (place, (holder, held)) in &holders {
                prop_assert_eq!(shares.held_by(*holder), [*held]);
                let of_address = sum_of(&|other| other.0 == place.0);
                prop_assert_eq!(shares.held_by(shares.outermost(*holder)), [of_address]);
                let over = shares.over_share(*holder).is_some();
                prop_assert!(!over || sum > 50, "half is free");
                prop_assert!(!(over && of_address == 0), "it holds nothing");
                let in_share = of_address == 0 || of_address < TIMES_FREE * (100 - sum);
                prop_assert!(over || sum <= 50 || in_share, "an address beyond its share may take no more");
            }
        }
        for (holder, held) in holders.into_values() {
            shares.remove(holder, [held]);
            shares.leave(holder);
        }
        prop_assert_eq!((shares.held(), shares.holders(), shares.names.len()), ([0], 0, 0));
    }
}
