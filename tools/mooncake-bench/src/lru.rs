//! A simulated cache of blocks, to hold a server's hit ratio against.
//!
//! Role: says what exact LRU makes of a trace at a capacity, in blocks. A request's blocks are touched deepest first, so
//! that a prefix outlives its continuation; what is missing is inserted in that order too.
//!
//! Invariants:
//! - At most `capacity` blocks are present after each step.
//! - Every run over one trace gives the same figures.

use crate::trace::Request;
use std::collections::HashMap;

/// What a cache made of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Hits {
    /// Requests.
    pub(crate) requests: u64,
    /// Blocks asked for.
    pub(crate) references: u64,
    /// Of them, present at the request's arrival, wherever in the prompt.
    pub(crate) blocks: u64,
    /// Of them, in the leading run of present blocks: what an engine can use.
    pub(crate) prefix_blocks: u64,
    /// Tokens of all prompts.
    pub(crate) tokens: u64,
    /// Of them, covered by the leading run: prefill saved.
    pub(crate) prefix_tokens: u64,
}

impl Hits {
    /// Counts one request, of whose blocks `present` were there and the first `prefix` without a gap.
    pub(crate) fn count(&mut self, request: &Request, present: usize, prefix: usize) {
        self.requests += 1;
        self.references += request.blocks.len() as u64;
        self.blocks += present as u64;
        self.prefix_blocks += prefix as u64;
        self.tokens += request.input_tokens;
        self.prefix_tokens += request.tokens_of_prefix(prefix);
    }

    /// Adds what another client of the same run counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.references += other.references;
        self.blocks += other.blocks;
        self.prefix_blocks += other.prefix_blocks;
        self.tokens += other.tokens;
        self.prefix_tokens += other.prefix_tokens;
    }

    /// Hits by block, wherever it stands in its prompt.
    pub(crate) fn block_ratio(&self) -> f64 {
        self.blocks as f64 / self.references.max(1) as f64
    }

    /// Hits by block of the leading run.
    pub(crate) fn prefix_ratio(&self) -> f64 {
        self.prefix_blocks as f64 / self.references.max(1) as f64
    }

    /// Tokens of the leading run by tokens asked for.
    pub(crate) fn token_ratio(&self) -> f64 {
        self.prefix_tokens as f64 / self.tokens.max(1) as f64
    }
}

/// Plays all requests against exact LRU of `capacity` blocks.
pub(crate) fn replay(requests: &[Request], capacity: usize) -> Hits {
    let mut lru = Lru::new(capacity);
    let mut hits = Hits::default();
    for request in requests {
        let present = request.blocks.iter().filter(|id| lru.contains(**id)).count();
        let prefix = request.blocks.iter().take_while(|id| lru.contains(**id)).count();
        hits.count(request, present, prefix);
        for &id in request.blocks.iter().rev() {
            lru.touch(id);
        }
    }
    hits
}

const NONE: u32 = u32::MAX;

struct Node {
    id: u64,
    older: u32,
    newer: u32,
}

/// Exact LRU: a table and a doubly linked list in one vector.
struct Lru {
    capacity: usize,
    places: HashMap<u64, u32>,
    nodes: Vec<Node>,
    oldest: u32,
    newest: u32,
}

impl Lru {
    fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a cache holds at least one block");
        assert!(capacity < NONE as usize, "places are 32 bits wide");
        Self { capacity, places: HashMap::new(), nodes: Vec::new(), oldest: NONE, newest: NONE }
    }

    fn contains(&self, id: u64) -> bool {
        self.places.contains_key(&id)
    }

    /// Makes `id` the newest, in the place of the oldest if it is not there and there is no room.
    fn touch(&mut self, id: u64) {
        let place = match self.places.get(&id) {
            Some(&place) => {
                self.unlink(place);
                place
            }
            None if self.nodes.len() < self.capacity => {
                let place = u32::try_from(self.nodes.len()).expect("fewer places than the capacity");
                self.nodes.push(Node { id, older: NONE, newer: NONE });
                self.places.insert(id, place);
                place
            }
            None => {
                let place = self.oldest;
                self.unlink(place);
                self.places.remove(&self.nodes[place as usize].id);
                self.nodes[place as usize].id = id;
                self.places.insert(id, place);
                place
            }
        };
        self.nodes[place as usize].older = self.newest;
        self.nodes[place as usize].newer = NONE;
        match self.newest {
            NONE => self.oldest = place,
            newest => self.nodes[newest as usize].newer = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Node { older, newer, .. } = self.nodes[place as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut lru = Lru::new(2);
        lru.touch(1);
        lru.touch(2);
        lru.touch(1);
        lru.touch(3);
        assert!(lru.contains(1));
        assert!(!lru.contains(2));
        assert!(lru.contains(3));
    }

    /// The reference ratios of the published trace (`data/README.md`), and that deepest-first keeps prefixes whole.
    #[test]
    fn lru_reaches_the_published_ratios_and_every_block_hit_is_a_prefix_hit() {
        let requests = crate::trace::read(None, usize::MAX).expect("the carried trace parses");
        for (capacity, ratio) in
            [(1_000, 0.045), (5_860, 0.136), (10_000, 0.212), (30_000, 0.326), (50_000, 0.355), (200_000, 0.366)]
        {
            let hits = replay(&requests, capacity);
            let rounded = (hits.block_ratio() * 1000.0).round() / 1000.0;
            assert_eq!(rounded, ratio, "{capacity} blocks: {}", hits.block_ratio());
            assert_eq!(hits.blocks, hits.prefix_blocks, "{capacity} blocks");
            assert_eq!(hits.references, 288_500);
        }
        let all = replay(&requests, 200_000);
        assert_eq!((all.token_ratio() * 1000.0).round(), 374.0);
    }
}
