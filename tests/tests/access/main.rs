//! Users and what they may: beside Redis, every command by every category, every way to the bytes, and where users stand.

mod beside;
mod files;
mod matrix;
mod ways;

use tests::Wire;

/// What is answered to a line of words, with blanks for line ends. Nothing is asked behind it: not everybody may.
fn say(wire: &mut Wire, line: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let reply = wire.exchange(&words).unwrap_or_else(|| panic!("the connection ends after {line:?}"));
    String::from_utf8_lossy(&reply).replace("\r\n", " ").trim_end().to_owned()
}
