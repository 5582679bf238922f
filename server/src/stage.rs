//! What a node does at the moment, as orchestrators ask it.

use crate::node::Node;
use std::sync::atomic::Ordering;

/// See the module's text. A node goes through them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Listens, and finds out what lies on flash.
    Loading,
    Serving,
    /// Was asked to stop: takes nobody new, and ends what there is.
    Draining,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Loading, Self::Serving, Self::Draining];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

impl Node {
    pub(crate) fn stage(&self) -> Stage {
        if self.is_stopping() {
            Stage::Draining
        } else if self.hot.loading.load(Ordering::Acquire) {
            Stage::Loading
        } else {
            Stage::Serving
        }
    }
}
