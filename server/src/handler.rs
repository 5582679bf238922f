//! Commands: one straight-line function each, a family a file. The only code that talks to store and transport at once.

pub(crate) mod acl;
pub(crate) mod alone;
pub(crate) mod aside;
pub(crate) mod attach;
pub(crate) mod checked;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod command_cmd;
pub(crate) mod config_cmd;
pub(crate) mod connection;
pub(crate) mod debug;
pub(crate) mod diagnose;
pub(crate) mod dump;
pub(crate) mod expire;
pub(crate) mod fetch;
pub(crate) mod generic;
pub(crate) mod info;
mod into;
pub(crate) mod job;
pub(crate) mod latency_cmd;
pub(crate) mod lcs;
pub(crate) mod lease;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod modify;
pub(crate) mod multi;
pub(crate) mod node_cmd;
pub(crate) mod object;
pub(crate) mod pin;
pub(crate) mod pubsub;
pub(crate) mod rework;
pub(crate) mod server;
pub(crate) mod string;
pub(crate) mod tier_cmd;
mod topology_cmd;
pub(crate) mod untouched;

use crate::dispatch::{Ctx, Flow};
use crate::pubsub::Kind;
use protocol::command::{CommandId as Id, Spec};
use protocol::resp::WireError;

/// Runs the function of a command. One more command is one more line here, one in the table, and its function.
pub(crate) fn run(ctx: &mut Ctx<'_>, spec: &'static Spec) -> Result<Flow, WireError> {
    match spec.id {
        Id::Get => string::get(ctx),
        Id::Set => string::set(ctx),
        Id::MGet => string::mget(ctx),
        Id::MSet => string::mset(ctx),
        Id::StrLen => string::strlen(ctx),
        Id::GetRange | Id::SubStr => string::getrange(ctx),
        Id::GetSet => modify::get_set(ctx),
        Id::GetDel => modify::get_del(ctx),
        Id::GetEx => modify::get_ex(ctx),
        Id::SetNx => modify::set_nx(ctx),
        Id::SetEx | Id::PSetEx => modify::set_ex(ctx, spec.id),
        Id::MSetNx => modify::mset_nx(ctx),
        Id::Append => rework::append(ctx),
        Id::SetRange => rework::set_range(ctx),
        Id::Incr => rework::incr(ctx),
        Id::Decr => rework::decr(ctx),
        Id::IncrBy => rework::incr_by(ctx),
        Id::DecrBy => rework::decr_by(ctx),
        Id::IncrByFloat => rework::incr_by_float(ctx),
        Id::Lcs => lcs::lcs(ctx),

        Id::Put => object::put(ctx),
        Id::Commit => object::commit(ctx),
        Id::Abort => object::abort(ctx),
        Id::MPut => object::mput(ctx),
        Id::MCommit => object::mcommit(ctx),
        Id::Stat => node_cmd::stat(ctx),
        Id::Lease => lease::lease(ctx),
        Id::Renew => lease::renew_one(ctx),
        Id::Release => lease::release(ctx),
        Id::MLease => lease::mlease(ctx),
        Id::MRelease => lease::mrelease(ctx),
        Id::Lookup => lookup::lookup(ctx),
        Id::Pin => pin::pin(ctx),
        Id::Unpin => pin::unpin(ctx),
        Id::Attach => attach::attach(ctx),
        Id::Detach => attach::detach(ctx),

        Id::Node => node_cmd::node(ctx),
        Id::NodeTopology => topology_cmd::node_topology(ctx),
        Id::SegmentList => node_cmd::segment_list(ctx),
        Id::TierList => tier_cmd::tier_list(ctx),
        Id::TierAttach => tier_cmd::tier_attach(ctx),
        Id::TierDetach => tier_cmd::tier_detach(ctx),
        Id::TierScrub => tier_cmd::tier_scrub(ctx),
        Id::Evict => node_cmd::evict(ctx),
        Id::Diagnose => diagnose::diagnose(ctx),

        Id::Exists => generic::exists(ctx),
        Id::Del => generic::del(ctx),
        Id::Unlink => generic::unlink(ctx),
        Id::Touch => generic::touch(ctx),
        Id::Type => generic::type_(ctx),
        Id::Keys => generic::keys(ctx),
        Id::Scan => generic::scan(ctx),
        Id::RandomKey => generic::random_key(ctx),
        Id::Rename => rework::rename(ctx, false),
        Id::RenameNx => rework::rename(ctx, true),
        Id::Copy => rework::copy(ctx),
        Id::Dump => dump::dump(ctx),
        Id::Restore => dump::restore(ctx),
        Id::ObjectEncoding => generic::object_encoding(ctx),
        Id::ObjectIdleTime => generic::object_idle_time(ctx),
        Id::ObjectFreq => generic::object_freq(ctx),
        Id::ObjectRefCount => generic::object_ref_count(ctx),
        Id::ObjectHelp => generic::object_help(ctx),

        Id::Ttl => expire::ttl(ctx),
        Id::Pttl => expire::pttl(ctx),
        Id::Expire | Id::PExpire | Id::ExpireAt | Id::PExpireAt => expire::expire(ctx, spec.id),
        Id::ExpireTime | Id::PExpireTime => expire::expire_time(ctx, spec.id),
        Id::Persist => expire::persist(ctx),

        Id::Subscribe => pubsub::subscribe(ctx, Kind::Channel),
        Id::PSubscribe => pubsub::subscribe(ctx, Kind::Pattern),
        Id::SSubscribe => pubsub::subscribe(ctx, Kind::Shard),
        Id::Unsubscribe => pubsub::unsubscribe(ctx, Kind::Channel),
        Id::PUnsubscribe => pubsub::unsubscribe(ctx, Kind::Pattern),
        Id::SUnsubscribe => pubsub::unsubscribe(ctx, Kind::Shard),
        Id::Publish => pubsub::publish(ctx, Kind::Channel),
        Id::SPublish => pubsub::publish(ctx, Kind::Shard),
        Id::PubSubChannels => pubsub::pubsub_channels(ctx, spec, Kind::Channel),
        Id::PubSubShardChannels => pubsub::pubsub_channels(ctx, spec, Kind::Shard),
        Id::PubSubNumSub => pubsub::pubsub_num_sub(ctx, Kind::Channel),
        Id::PubSubShardNumSub => pubsub::pubsub_num_sub(ctx, Kind::Shard),
        Id::PubSubNumPat => pubsub::pubsub_num_pat(ctx),
        Id::Monitor => pubsub::monitor(ctx),
        Id::ClusterInfo
        | Id::ClusterMyId
        | Id::ClusterNodes
        | Id::ClusterSlots
        | Id::ClusterShards
        | Id::ClusterKeySlot => cluster::cluster(ctx, spec.id),
        Id::ClusterCountKeysInSlot | Id::ClusterGetKeysInSlot => cluster::keys_in_slot(ctx, spec.id),
        Id::Asking | Id::ReadOnly | Id::ReadWrite => cluster::accept(ctx),

        Id::Multi => multi::multi(ctx),
        Id::Exec => multi::exec(ctx),
        Id::Discard => multi::discard(ctx),
        Id::Watch => multi::watch(ctx),
        Id::Unwatch => multi::unwatch(ctx),

        Id::Ping => connection::ping(ctx),
        Id::Echo => connection::echo(ctx),
        Id::Hello => connection::hello(ctx),
        Id::Auth => connection::auth(ctx),
        Id::Select => connection::select(ctx),
        Id::Quit => connection::quit(ctx),
        Id::Reset => connection::reset(ctx),
        Id::ClientId => client::client_id(ctx),
        Id::ClientInfo => client::client_info(ctx),
        Id::ClientList => client::client_list(ctx),
        Id::ClientKill => client::client_kill(ctx),
        Id::ClientSetName => client::client_set_name(ctx),
        Id::ClientGetName => client::client_get_name(ctx),
        Id::ClientSetInfo => client::client_set_info(ctx),
        Id::ClientNoEvict => client::client_no_evict(ctx),
        Id::ClientNoTouch => client::client_no_touch(ctx),
        Id::ClientReply => client::client_reply(ctx),
        Id::ClientPause => client::client_pause(ctx),
        Id::ClientUnpause => client::client_unpause(ctx),

        Id::AclCat => acl::cat(ctx),
        Id::AclDelUser => acl::del_user(ctx),
        Id::AclDryRun => acl::dry_run(ctx),
        Id::AclGenPass => acl::gen_pass(ctx),
        Id::AclGetUser => acl::get_user(ctx),
        Id::AclList => acl::list(ctx),
        Id::AclLoad => acl::load(ctx),
        Id::AclLog => acl::log(ctx),
        Id::AclSave => acl::save(ctx),
        Id::AclSetUser => acl::set_user(ctx),
        Id::AclUsers => acl::users(ctx),
        Id::AclWhoAmI => acl::who_am_i(ctx),

        Id::Command => command_cmd::command(ctx),
        Id::CommandCount => command_cmd::command_count(ctx),
        Id::CommandDocs => command_cmd::command_docs(ctx),
        Id::CommandInfo => command_cmd::command_info(ctx),
        Id::CommandGetKeys => command_cmd::command_get_keys(ctx),
        Id::CommandList => command_cmd::command_list(ctx),
        Id::ConfigGet => config_cmd::config_get(ctx),
        Id::ConfigSet => config_cmd::config_set(ctx),
        Id::ConfigResetStat => config_cmd::config_reset_stat(ctx),
        Id::ConfigRewrite => config_cmd::config_rewrite(ctx),
        Id::Info => info::info(ctx),
        Id::DbSize => generic::db_size(ctx),
        Id::Time => server::time(ctx),
        Id::Role => server::role(ctx),
        Id::LastSave => server::last_save(ctx),
        Id::FlushAll => server::flush_all(ctx),
        Id::FlushDb => server::flush_db(ctx),
        Id::MemoryUsage => memory::memory_usage(ctx),
        Id::MemoryStats => memory::memory_stats(ctx),
        Id::MemoryDoctor => memory::memory_doctor(ctx),
        Id::SlowLogGet => server::slow_log_get(ctx),
        Id::SlowLogLen => server::slow_log_len(ctx),
        Id::SlowLogReset => server::slow_log_reset(ctx),
        Id::LatencyLatest => server::latency_latest(ctx),
        Id::LatencyHistory => server::latency_history(ctx),
        Id::LatencyReset => server::latency_reset(ctx),
        Id::LatencyHistogram => latency_cmd::latency_histogram(ctx),
        Id::LatencyDoctor => latency_cmd::latency_doctor(ctx),
        Id::ModuleList => server::module_list(ctx),
        Id::FunctionFlush => server::function_flush(ctx),
        Id::FunctionList => server::function_list(ctx),
        Id::DebugSleep => debug::debug_sleep(ctx),
        Id::DebugPopulate => debug::debug_populate(ctx),
        Id::DebugObject => debug::debug_object(ctx),
        Id::LolWut => server::lolwut(ctx),
        Id::Shutdown => server::shutdown(ctx),
        Id::Wait => server::wait(ctx),

        // Containers without a subcommand: the arity check of their subcommands answered already, except for the bare name.
        Id::Segment
        | Id::Tier
        | Id::Object
        | Id::Acl
        | Id::Client
        | Id::Config
        | Id::Memory
        | Id::SlowLog
        | Id::Latency
        | Id::Module
        | Id::Function
        | Id::PubSub
        | Id::Cluster
        | Id::Debug => Err(WireError::arity(spec.full_name)),
    }
}
