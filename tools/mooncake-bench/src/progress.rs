//! Progress on standard error, where that is a terminal and nobody asked for quiet.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A bar over `total` units of `unit`; invisible off a terminal.
pub(crate) fn bar(total: u64, what: &str, unit: &str) -> ProgressBar {
    let template = format!(
        "{what:<10} {{bar:32}} {{percent:>3}}% {{human_pos}}/{{human_len}} {unit} {{per_sec}}, {{eta}} left {{msg}}"
    );
    styled(ProgressBar::new(total), &template)
}

/// A bar over bytes.
pub(crate) fn bytes(total: u64, what: &str) -> ProgressBar {
    let template =
        format!("{what:<10} {{bar:32}} {{percent:>3}}% {{bytes}}/{{total_bytes}} {{bytes_per_sec}}, {{eta}} left");
    styled(ProgressBar::new(total), &template)
}

/// A line that shows a message, for a wait of unknown length. It goes when it is dropped.
pub(crate) fn waiting(what: &str) -> ProgressBar {
    styled(ProgressBar::no_length(), &format!("{what:<10} {{spinner}} {{elapsed}} {{wide_msg}}"))
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    // `stderr` hides itself where standard error is not a terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> "));
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(250));
    }
    bar
}
