//! What an operator does: looks at a server, configures it, starts and stops it.

mod doctor;
mod metrics;
mod monitoring;
mod supervise;
mod tls;
mod topology;
