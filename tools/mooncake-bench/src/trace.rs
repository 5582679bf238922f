//! Request traces: which prefix blocks each request of a real service needed, and when.
//!
//! Role: reads JSON lines as the Mooncake FAST'25 release writes them, plain or gzip; says with the line's number what is
//! wrong with a file. Origin and licence of the trace in this tree: `data/README.md`.
//!
//! Invariants:
//! - A request has at least one block, and exactly one id for each 512 tokens of its prompt.
//! - Requests are sorted by time.

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Tokens that one block of a trace stands for.
pub(crate) const TOKENS_A_BLOCK: u64 = 512;

/// The trace that the tool carries: the conversation trace of the Mooncake FAST'25 release, Apache-2.0.
const CARRIED: &[u8] = include_bytes!("../data/conversation_trace.jsonl.gz");

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Request {
    /// Arrival, in ms from the trace's start.
    #[serde(rename = "timestamp")]
    pub(crate) at_ms: u64,
    /// Tokens of the prompt.
    #[serde(rename = "input_length")]
    pub(crate) input_tokens: u64,
    /// Tokens of the answer.
    #[serde(rename = "output_length")]
    pub(crate) output_tokens: u64,
    /// One id for each block of the prompt, the first block first.
    #[serde(rename = "hash_ids")]
    pub(crate) blocks: Vec<u64>,
}

impl Request {
    /// Tokens of the prompt that the first `blocks` blocks cover.
    pub(crate) fn tokens_of_prefix(&self, blocks: usize) -> u64 {
        (blocks as u64 * TOKENS_A_BLOCK).min(self.input_tokens)
    }
}

/// Reads the first `requests_max` requests of a file, or of the carried trace if there is no `path`.
pub(crate) fn read(path: Option<&Path>, requests_max: usize) -> Result<Vec<Request>> {
    let Some(path) = path else {
        return parse(BufReader::new(MultiGzDecoder::new(CARRIED)), requests_max).context("the carried trace");
    };
    let name = || path.display().to_string();
    let mut file = BufReader::new(File::open(path).with_context(name)?);
    let is_gzip = file.fill_buf().with_context(name)?.starts_with(&[0x1f, 0x8b]);
    let lines: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    parse(BufReader::new(lines), requests_max).with_context(name)
}

fn parse(lines: impl BufRead, requests_max: usize) -> Result<Vec<Request>> {
    let mut requests: Vec<Request> = Vec::new();
    for (i, line) in lines.lines().enumerate() {
        if requests.len() == requests_max {
            break;
        }
        let at = || format!("line {}", i + 1);
        let line = line.with_context(at)?;
        if line.trim().is_empty() {
            continue;
        }
        let request: Request = serde_json::from_str(&line).with_context(at)?;
        let blocks = request.input_tokens.div_ceil(TOKENS_A_BLOCK);
        ensure!(blocks > 0, "line {}: a prompt of no tokens", i + 1);
        ensure!(
            request.blocks.len() as u64 == blocks,
            "line {}: {} ids for {} tokens, which are {blocks} blocks of {TOKENS_A_BLOCK}",
            i + 1,
            request.blocks.len(),
            request.input_tokens
        );
        if let Some(before) = requests.last() {
            ensure!(before.at_ms <= request.at_ms, "line {}: earlier than the line before", i + 1);
        }
        requests.push(request);
    }
    ensure!(!requests.is_empty(), "no request");
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_trace_is_the_published_one() {
        let requests = read(None, usize::MAX).expect("the carried trace parses");
        assert_eq!(requests.len(), 12_031);
        assert_eq!(requests.iter().map(|r| r.blocks.len()).sum::<usize>(), 288_500);
        let unique: std::collections::HashSet<u64> = requests.iter().flat_map(|r| r.blocks.iter().copied()).collect();
        assert_eq!(unique.len(), 182_790);
        assert!(requests.iter().all(|r| r.blocks[0] == 0));
    }

    #[test]
    fn the_slice_is_the_beginning_of_the_trace() {
        let slice = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/conversation_slice.jsonl");
        let slice = read(Some(&slice), usize::MAX).expect("the slice parses");
        assert_eq!(slice.len(), 2_000);
        assert_eq!(slice, read(None, 2_000).expect("the carried trace parses"));
    }

    #[test]
    fn a_partial_last_block_counts_only_its_tokens() {
        let request = Request { at_ms: 0, input_tokens: 1_000, output_tokens: 1, blocks: vec![0, 1] };
        assert_eq!(request.tokens_of_prefix(0), 0);
        assert_eq!(request.tokens_of_prefix(1), 512);
        assert_eq!(request.tokens_of_prefix(2), 1_000);
    }

    #[test]
    fn broken_lines_are_refused_with_their_number() {
        let good = r#"{"timestamp": 5, "input_length": 513, "output_length": 1, "hash_ids": [0, 1]}"#;
        for (bad, says) in [
            ("{", "line 2"),
            (r#"{"timestamp": 5, "input_length": 513, "output_length": 1, "hash_ids": [0]}"#, "1 ids for 513 tokens"),
            (r#"{"timestamp": 4, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#, "earlier"),
            (r#"{"timestamp": 5, "input_length": 0, "output_length": 1, "hash_ids": []}"#, "no tokens"),
        ] {
            let text = format!("{good}\n{bad}\n");
            let error = parse(text.as_bytes(), usize::MAX).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
        assert!(parse(&b"\n"[..], usize::MAX).is_err());
    }
}
