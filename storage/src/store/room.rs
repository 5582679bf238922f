//! Making room: which objects go when a reservation finds no space.
//!
//! Role: first the oldest of all, as long as that may help. Objects of one age lie scattered, so a long run can be far away
//! however many of them go; and small ones give their page back only with the last of them. Then whole runs are cleared
//! around the oldest: those neighbours go whose bytes are fewest.
//!
//! Invariants:
//! - What a reservation may evict is bounded by a multiple of what it asked for, not by the population.
//! - What can never fit evicts nothing.
//! - No lock is held across objects of different shards.

use super::Inner;
use crate::dram::extent::{Owner, Run};
use crate::dram::quota::percent_of;
use crate::lru::Prey;
use crate::place::{PAGE, Position};
use crate::shard::evict::Oldest;
use crate::shard::gauges::Gauges;
use protocol::base::Instant;

/// Rounds of evicting the oldest, then clearing a run. Each may evict twice as much as the one before.
const ROUNDS_MAX: u32 = 8;
/// Oldest objects around which a run is looked for.
const SEEDS_MAX: usize = 8;
/// Pages looked at around one of them, at least.
const RADIUS_MIN: u32 = 512;
/// Runs that are found to be busy before another neighbourhood is tried.
const BUSY_MAX: usize = 16;
/// Objects of its own shard that a small write evicts before it looks for pages.
const OWN_VICTIMS_MAX: u32 = 64;
/// Share of the capacity, in percent, that free slots of slab pages may take before pages are cleared for them.
const SLAB_FREE_PERCENT_MAX: u8 = 10;

/// Runs that one maintenance call clears when the capacity was cut.
const SHRINKS_MAX: usize = 64;

/// One reservation's search for room.
#[derive(Debug)]
pub(crate) struct Hunt {
    pages: u32,
    own_victims: u32,
    evicted: u64,
    budget: u64,
    rounds: u32,
    /// Sparse slab pages cleared.
    cleared: u32,
}

/// What is to be cleared.
#[derive(Clone, Copy, Debug)]
struct Clearing {
    pages: u32,
    /// Wherever they lie: only their number is short.
    anywhere: bool,
    /// Bytes of objects that it may cost.
    cost_max: u64,
    /// Oldest objects around which to look.
    seeds: usize,
}

impl Hunt {
    /// For a run of this many pages.
    pub(crate) fn new(pages: u32) -> Self {
        Self { pages, own_victims: 0, evicted: 0, budget: 2 * u64::from(pages) * PAGE, rounds: 0, cleared: 0 }
    }
}

impl Inner {
    /// Pages of a segment, after evicting as much as it takes.
    pub(crate) fn allocate(&self, now: Instant, pages: u32, owner: Owner, home: usize) -> Option<Position> {
        let mut hunt = Hunt::new(pages);
        loop {
            let got = self.space.allocate(pages, owner, home);
            if got.is_some() || !self.make_room(now, &mut hunt) {
                return got;
            }
        }
    }

    /// Evicts something that may give `shard` a small slot. `false` if nothing more can be done.
    pub(crate) fn make_small_room(&self, now: Instant, shard: usize, hunt: &mut Hunt) -> bool {
        // A slot freed in another shard's page is of no use here, so the first victims are this shard's own.
        while hunt.own_victims < OWN_VICTIMS_MAX {
            if hunt.own_victims > 0 && self.clear_sparse(now, hunt) {
                return true;
            }
            match self.with(shard, |shard, space| shard.evict_own(now, self.prey(now), space)) {
                Oldest::Evicted(_) => {
                    hunt.own_victims += 1;
                    return true;
                }
                Oldest::Parked => {}
                Oldest::None => break,
            }
        }
        self.make_room(now, hunt)
    }

    /// Evicts something that may give a run of pages. `false` if nothing more can be done. Where nothing was found, room may
    /// have been made by others meanwhile: the caller looks again, as often as there are rounds.
    fn make_room(&self, now: Instant, hunt: &mut Hunt) -> bool {
        if self.clear_sparse(now, hunt) {
            return true;
        }
        if hunt.evicted < hunt.budget
            && let Some(evicted) = self.evict_one(now, self.prey(now))
        {
            hunt.evicted += evicted;
            return true;
        }
        if hunt.rounds == ROUNDS_MAX {
            return false;
        }
        hunt.rounds += 1;
        hunt.budget = hunt.budget.saturating_mul(2);
        if self.trim() == 0 {
            let anywhere = self.space.is_capped(hunt.pages);
            self.clear_run(now, Clearing { pages: hunt.pages, anywhere, cost_max: u64::MAX, seeds: SEEDS_MAX });
        }
        true
    }

    /// Where much memory lies in free slots of other sizes, clears a run of pages that holds little: that costs less than the
    /// oldest objects would.
    fn clear_sparse(&self, now: Instant, hunt: &mut Hunt) -> bool {
        let free: u64 = self.gauges.iter().map(Gauges::slab_free).sum();
        if hunt.cleared == ROUNDS_MAX || free <= percent_of(self.space.capacity(), SLAB_FREE_PERCENT_MAX) {
            return false;
        }
        hunt.cleared += 1;
        let anywhere = self.space.is_capped(hunt.pages);
        let cost_max = u64::from(hunt.pages) * PAGE / 4;
        self.trim() > 0 || self.clear_run(now, Clearing { pages: hunt.pages, anywhere, cost_max, seeds: 2 })
    }

    /// Whether there would be room if every object that anybody may evict were gone. Asked before the charge is taken.
    pub(crate) fn may_ever_fit(&self, bytes: u64) -> bool {
        let held = self.space.states.unpublished().saturating_add(self.space.pinned.held());
        bytes <= self.space.capacity().saturating_sub(held)
    }

    /// Evicts the oldest object of all: of the first kind of `prey` that there is.
    pub(crate) fn evict_one(&self, now: Instant, prey: &[Prey]) -> Option<u64> {
        for prey in prey {
            // A shard whose oldest are spared moves them out of the way, once for each grace, and reports the next.
            while let Some((shard, list)) = self.oldest(now, *prey) {
                match self.with(shard, |shard, space| shard.evict_oldest(now, list, space)) {
                    Oldest::Evicted(bytes) => return Some(bytes),
                    Oldest::Parked | Oldest::None => {}
                }
            }
        }
        None
    }

    /// Gives pages back that the capacity, cut since they were taken, no longer allows.
    pub(crate) fn shrink_to_capacity(&self, now: Instant) {
        for _ in 0..SHRINKS_MAX {
            let excess = self.space.used().saturating_sub(self.space.capacity());
            let pages = pages_ceil(excess).min(RADIUS_MIN);
            let clearing = Clearing { pages, anywhere: true, cost_max: u64::MAX, seeds: SEEDS_MAX };
            if excess == 0 || (self.trim() == 0 && !self.clear_run(now, clearing)) {
                return;
            }
        }
    }

    fn trim(&self) -> u64 {
        (0..self.shard_count()).map(|shard| self.with(shard, |shard, space| shard.slabs.trim(space))).sum()
    }

    /// Frees a run of pages, or pages wherever they lie if only their number is short.
    fn clear_run(&self, now: Instant, clearing: Clearing) -> bool {
        for &prey in self.prey(now) {
            for nth in 0..clearing.seeds {
                let Some((shard, list)) = self.oldest(now, prey) else {
                    break;
                };
                let Some((seed, touched)) = self.with(shard, |shard, _| shard.nth_oldest_run(list, nth)) else {
                    break;
                };
                // A page that is sparse because it was begun lately will be filled.
                let middle = Instant(touched.0 + now.0.saturating_sub(touched.0) / 2);
                let taken_max = if clearing.cost_max == u64::MAX { Instant::NEVER } else { middle };
                if self.clear_around(now, seed, clearing, taken_max, prey) {
                    return true;
                }
            }
        }
        false
    }

    fn clear_around(&self, now: Instant, seed: Position, clearing: Clearing, taken_max: Instant, prey: Prey) -> bool {
        let Some(chosen) = self.choose_around(now, seed, clearing, taken_max, prey) else { return false };
        let mut freed = false;
        for (base, owner) in chosen {
            freed |= self
                .with(self.shard_of_owner(owner), |shard, space| shard.evict_run(now, base, owner, prey, space))
                .is_some();
        }
        freed
    }

    /// Nothing more is free to drop: what would give a run of pages is written to flash next, and is free then. Else the
    /// oldest objects would be, wherever they lie.
    pub(crate) fn spill_run(&self, now: Instant, pages: u32) {
        if self.space.is_capped(pages) {
            return;
        }
        let clearing = Clearing { pages, anywhere: false, cost_max: u64::MAX, seeds: SEEDS_MAX };
        for prey in [Prey::Plain, Prey::Soft] {
            for nth in 0..clearing.seeds {
                let Some((shard, list)) = self.oldest(now, prey) else { break };
                let Some((seed, _)) = self.with(shard, |shard, _| shard.nth_oldest_run(list, nth)) else { break };
                let chosen = self.choose_around(now, seed, clearing, Instant::NEVER, prey);
                for (base, owner) in chosen.iter().flatten().copied() {
                    self.with(self.shard_of_owner(owner), |shard, space| {
                        let victims = shard.victims_of_run(now, base, owner, prey, space);
                        victims.into_iter().flatten().for_each(|index| shard.spill_soon(index));
                    });
                }
                if chosen.is_some() {
                    return;
                }
            }
        }
    }

    /// Used runs near `seed` that would leave enough pages if their objects went, each of which can go.
    fn choose_around(
        &self,
        now: Instant,
        seed: Position,
        clearing: Clearing,
        taken_max: Instant,
        prey: Prey,
    ) -> Option<Vec<(Position, Owner)>> {
        let Clearing { pages, anywhere, cost_max, .. } = clearing;
        let runs = self.space.around(seed, pages.max(RADIUS_MIN));
        let base = |run: &Run| Position::new(seed.segment(), u64::from(run.start) * PAGE);
        // Bytes of objects in each run; `None` if it has to stay.
        let mut costs: Vec<Option<u64>> = runs
            .iter()
            .map(|run| match run.owner {
                None => (!anywhere).then_some(0),
                Some(Owner::Object { .. }) => Some(u64::from(run.pages) * PAGE),
                Some(Owner::Slab { shard, page }) => {
                    let used = self.with(usize::from(shard), |shard, _| shard.slabs.used_of(page, base(run)));
                    used.filter(|&(_, taken_at)| taken_at <= taken_max).map(|(used, _)| used)
                }
            })
            .collect();
        for _ in 0..BUSY_MAX {
            let chosen =
                if anywhere { cheapest_runs(&runs, &costs, pages) } else { cheapest_window(&runs, &costs, pages) };
            let cost = |chosen: &Vec<usize>| chosen.iter().filter_map(|&at| costs[at]).sum::<u64>();
            let chosen = chosen.filter(|chosen| cost(chosen) <= cost_max)?;
            let evictable = |&at: &usize| {
                let run = &runs[at];
                run.owner.is_none_or(|owner| {
                    self.with(self.shard_of_owner(owner), |shard, space| {
                        shard.victims_of_run(now, base(run), owner, prey, space).is_some()
                    })
                })
            };
            if let Some(&busy) = chosen.iter().find(|at| !evictable(at)) {
                costs[busy] = None;
                continue;
            }
            return Some(chosen.into_iter().filter_map(|at| Some((base(&runs[at]), runs[at].owner?))).collect());
        }
        None
    }

    fn shard_of_owner(&self, owner: Owner) -> usize {
        match owner {
            Owner::Object { hash } => self.shard_of(hash),
            Owner::Slab { shard, .. } => usize::from(shard),
        }
    }
}

fn pages_ceil(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

/// Of runs that follow each other without a gap and together have `pages`, those that cost least.
fn cheapest_window(runs: &[Run], costs: &[Option<u64>], pages: u32) -> Option<Vec<usize>> {
    let mut best: Option<(u64, std::ops::Range<usize>)> = None;
    let (mut from, mut sum, mut cost) = (0, 0u64, 0u64);
    for to in 0..runs.len() {
        let Some(here) = costs[to] else {
            (from, sum, cost) = (to + 1, 0, 0);
            continue;
        };
        sum += u64::from(runs[to].pages);
        cost += here;
        while sum - u64::from(runs[from].pages) >= u64::from(pages) {
            sum -= u64::from(runs[from].pages);
            cost -= costs[from].expect("windows have no run that stays");
            from += 1;
        }
        if sum >= u64::from(pages) && best.as_ref().is_none_or(|&(least, _)| cost < least) {
            best = Some((cost, from..to + 1));
        }
    }
    best.map(|(_, window)| window.collect())
}

/// Of runs anywhere that together have `pages`, those that cost least a page.
fn cheapest_runs(runs: &[Run], costs: &[Option<u64>], pages: u32) -> Option<Vec<usize>> {
    let mut order: Vec<(u64, usize)> =
        (0..runs.len()).filter_map(|at| Some((costs[at]? / u64::from(runs[at].pages), at))).collect();
    order.sort_unstable();
    let mut sum = 0;
    let mut chosen = Vec::new();
    for (_, at) in order {
        chosen.push(at);
        sum += runs[at].pages;
        if sum >= pages {
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pages: &[u32]) -> Vec<Run> {
        let mut start = 1;
        pages
            .iter()
            .map(|&pages| {
                let run = Run { start, pages, owner: Some(Owner::Object { hash: 0 }) };
                start += pages;
                run
            })
            .collect()
    }

    #[test]
    fn the_cheapest_neighbours_are_chosen() {
        let runs = runs(&[4, 4, 4, 4, 8]);
        let check = |costs: &[Option<u64>], pages, expected: Option<Vec<usize>>| {
            assert_eq!(cheapest_window(&runs, costs, pages), expected);
        };
        check(&[Some(4), Some(4), Some(0), Some(3), Some(8)], 8, Some(vec![2, 3]));
        check(&[Some(4), Some(4), None, Some(3), Some(8)], 8, Some(vec![0, 1]));
        check(&[Some(9), Some(4), None, Some(3), Some(8)], 8, Some(vec![4]));
        check(&[None, Some(4), None, Some(3), None], 5, None);
        check(&[Some(1), Some(1), Some(1), Some(1), Some(1)], 24, Some(vec![0, 1, 2, 3, 4]));
        check(&[Some(1), Some(1), Some(1), Some(1), Some(1)], 25, None);
        check(&[None, None, None, None, Some(5)], 3, Some(vec![4]));
    }

    #[test]
    fn the_emptiest_pages_are_chosen_where_any_will_do() {
        let runs = runs(&[16, 16, 16, 64]);
        assert_eq!(cheapest_runs(&runs, &[Some(900), Some(100), Some(500), None], 32), Some(vec![1, 2]));
        assert_eq!(cheapest_runs(&runs, &[Some(900), None, Some(500), None], 48), None);
    }
}
