//! What a saved token of prefill is worth: the time a model would have taken to compute it.
//!
//! The model of the work: two operations for each parameter and token, and for the attention four for each layer, unit of
//! width and pair of tokens, half of which causality leaves out. The time: the work divided by what the machine does.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::str::FromStr;

/// A language model on a machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CostModel {
    name: String,
    parameters: f64,
    layers: f64,
    width: f64,
    /// Operations a second that the machine really does in prefill.
    flops: f64,
}

impl FromStr for CostModel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let of = |parameters, layers, width, flops| Self { name: text.into(), parameters, layers, width, flops };
        match text {
            // Half of the peak at 16 bits (989 TFLOPS) of as many devices as the weights want.
            "llama3-8b@h100" => return Ok(of(8.0e9, 32.0, 4096.0, 0.5 * 989e12)),
            "llama3-70b@4xh100" => return Ok(of(70.6e9, 80.0, 8192.0, 4.0 * 0.5 * 989e12)),
            // The paper's dummy model, as LLaMA2-70B, on 8 A800 (312 TFLOPS).
            "llama2-70b@8xa800" => return Ok(of(69.0e9, 80.0, 8192.0, 8.0 * 0.5 * 312e12)),
            _ => {}
        }
        let mut model = of(0.0, 0.0, 0.0, 0.0);
        for part in text.split(',') {
            let (name, value) = part
                .split_once('=')
                .with_context(|| format!("{text:?} is none of {NAMES} nor parameters=N,layers=N,width=N,flops=N"))?;
            let value: f64 = value.parse().with_context(|| format!("{value:?} is not a number"))?;
            match name {
                "parameters" => model.parameters = value,
                "layers" => model.layers = value,
                "width" => model.width = value,
                "flops" => model.flops = value,
                _ => bail!("{name:?} is none of parameters, layers, width, flops"),
            }
        }
        ensure!(model.parameters > 0.0 && model.flops > 0.0, "parameters and flops are more than 0");
        ensure!(model.layers >= 0.0 && model.width >= 0.0, "layers and width are not less than 0");
        Ok(model)
    }
}

/// The models known by name.
pub(crate) const NAMES: &str = "llama3-8b@h100, llama3-70b@4xh100, llama2-70b@8xa800";

impl fmt::Display for CostModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, parameters, layers, width, flops } = self;
        write!(
            f,
            "{name}: {parameters:.3e} parameters, {layers} layers, width {width}, {flops:.3e} operations a second"
        )
    }
}

impl CostModel {
    /// Seconds to compute the tokens after the first `cached` of a prompt of `tokens`.
    pub(crate) fn seconds(&self, tokens: u64, cached: u64) -> f64 {
        let (n, p) = (tokens as f64, cached.min(tokens) as f64);
        let dense = 2.0 * self.parameters * (n - p);
        let attention = 2.0 * self.layers * self.width * (n * n - p * p);
        (dense + attention) / self.flops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_and_computed_prefill_add_up() {
        let model = "llama3-70b@4xh100".parse::<CostModel>().unwrap();
        let whole = model.seconds(8192, 0);
        // 2 × 70.6e9 × 8192 + 2 × 80 × 8192 × 8192² operations at 1.978e15 a second.
        assert!((whole - (1.1567e15 + 8.796e13) / 1.978e15).abs() < 1e-3, "{whole}");
        assert_eq!(model.seconds(8192, 8192), 0.0);
        assert!(model.seconds(8192, 4096) > whole / 2.0, "later tokens attend to more");
        let own = "parameters=1e9,layers=10,width=100,flops=1e12".parse::<CostModel>().unwrap();
        assert!((own.seconds(1000, 0) - 2.002).abs() < 1e-9);
        for bad in ["gpt", "parameters=1", "parameters=x,flops=1", "weights=1"] {
            assert!(bad.parse::<CostModel>().is_err(), "{bad}");
        }
    }
}
