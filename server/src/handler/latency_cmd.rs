//! `LATENCY HISTOGRAM` and `LATENCY DOCTOR`: how long commands took, in buckets and in sentences.

use crate::dispatch::{Ctx, Flow};
use crate::latency::{BOUNDS, Level, Sum, bound_micros};
use crate::node::Node;
use protocol::command::{self, Spec};
use protocol::resp::WireError;
use std::fmt::Write as _;

/// How long the calls of one command took, wherever its bytes were.
fn took(node: &Node, spec: &Spec) -> Sum {
    let mut sum = Sum::default();
    Level::ALL.into_iter().for_each(|level| sum.merge(&node.took(spec.id, level)));
    sum
}

/// A command and its subcommands.
fn with_subcommands(spec: &'static Spec) -> impl Iterator<Item = &'static Spec> {
    std::iter::once(spec).chain(spec.subcommands)
}

/// The commands that a word means: one, a container with all of its own, or `container|subcommand`.
fn meant(word: &[u8]) -> Vec<&'static Spec> {
    let mut parts = word.splitn(2, |&byte| byte == b'|');
    let Some(spec) = parts.next().and_then(command::lookup) else { return Vec::new() };
    match parts.next() {
        None => with_subcommands(spec).collect(),
        Some(name) => spec.subcommand(name).into_iter().collect(),
    }
}

/// `LATENCY HISTOGRAM [command …]`: names that are none are passed over.
pub(crate) fn latency_histogram(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let named = ctx.args.skip(2);
    let specs: Vec<&'static Spec> = if named.is_empty() {
        command::all().flat_map(with_subcommands).collect()
    } else {
        named.iter().filter_map(|arg| arg.bytes()).flat_map(meant).collect()
    };
    let node = ctx.node;
    let sums = specs.into_iter().map(|spec| (spec, took(node, spec)));
    let sums: Vec<(&Spec, Sum)> = sums.filter(|(_, sum)| sum.count() > 0).collect();
    let mut reply = ctx.output.writer();
    reply.map(sums.len());
    for (spec, sum) in sums {
        reply.bulk(spec.full_name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.count(sum.count());
        reply.bulk(b"histogram_usec");
        // Counts add up from bucket to bucket, and a bucket that adds nothing is left out.
        let filled = || sum.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        reply.map(filled().count());
        let mut below = 0;
        for (bucket, count) in filled() {
            below += count;
            reply.integer(if bucket < BOUNDS { bound_micros(bucket) } else { i64::MAX });
            reply.count(below);
        }
    }
    Ok(Flow::Go)
}

/// `LATENCY DOCTOR`
pub(crate) fn latency_doctor(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let (events, threshold) = (ctx.node.slow.events(), ctx.node.config.read().latency_monitor_threshold.0);
    let mut text = String::new();
    if threshold == 0 {
        text.push_str(
            "Spikes are not noted: `CONFIG SET latency-monitor-threshold 10` notes those of 10 ms and more.\n",
        );
    } else if events.is_empty() {
        writeln!(text, "No command took {threshold} ms or longer.").expect("a string takes text");
    }
    for (kind, latest, longest_ms) in &events {
        let count = ctx.node.slow.history(kind.as_bytes()).len();
        let what = if *kind == "fast-command" { "Short commands" } else { "Commands" };
        writeln!(text, "* {what} took up to {longest_ms} ms, the latest {} ms; {count} spikes are kept.", latest.ms)
            .expect("a string takes text");
    }
    if !events.is_empty() {
        text.push_str(
            "`SLOWLOG GET` has the commands. Where they are short ones, the machine was busy: fewer `workers` or more cores. \
             `DIAGNOSE` tells of slow devices and full memory.\n",
        );
    }
    ctx.reply().verbatim(&text);
    Ok(Flow::Go)
}
