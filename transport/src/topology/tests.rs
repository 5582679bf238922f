use super::fixture::Machine;
use super::sysfs::list;
use super::*;

/// Names of the adapters for memory on a node, best first.
fn ranked(topology: &Topology, node: Option<u32>) -> Vec<&str> {
    rank(topology, node).iter().map(|ranked| topology.nics[ranked.nic].name.as_str()).collect()
}

#[test]
fn a_machine_with_one_nic_is_read_as_it_is() {
    let machine = Machine::one_nic();
    let topology = Topology::read(machine.root());
    assert_eq!(topology.nodes.len(), 1);
    assert_eq!((topology.nodes[0].cpus.len(), topology.nodes[0].memory), (16, 64 << 30));
    assert_eq!(topology.nics.len(), 1, "{:?}", topology.nics);
    let nic = &topology.nics[0];
    assert_eq!((nic.name.as_str(), nic.interface.as_deref()), ("mlx5_0", Some("ens1f0np0")));
    assert_eq!((nic.gbps, nic.mtu, nic.is_up, nic.slot.numa), (25, Some(4200), true, Some(0)));
    let rdma = nic.rdma.as_ref().expect("it is one");
    assert_eq!((rdma.state.as_str(), rdma.link_layer.as_str(), rdma.gids.len()), ("ACTIVE", "Ethernet", 1));
    assert_eq!(rdma.gids[0].kind, "RoCE v2");
    assert_eq!(topology.gpus, []);
    let drive = &topology.drives[0];
    assert_eq!((drive.transport.as_str(), drive.state.as_str()), ("pcie", "live"));
    assert_eq!(drive.slot.pci.address(), Some("0000:02:00.0"));
    assert_eq!(topology.distance(&nic.slot, &drive.slot), Distance::HostBridge);
    assert_eq!(ranked(&topology, Some(0)), ["mlx5_0"]);
}

#[test]
fn memory_of_each_socket_is_moved_by_its_own_nics_first() {
    let topology = Topology::read(Machine::eight_nics().root());
    assert_eq!(topology.nodes[1].cpus.first(), Some(&32));
    assert_eq!(topology.numa_distance(0, 1), Some(21));
    assert_eq!(ranked(&topology, Some(0)), (0..8).map(|at| format!("mlx5_{at}")).collect::<Vec<_>>());
    assert_eq!(ranked(&topology, Some(1)), [4, 5, 6, 7, 0, 1, 2, 3].map(|at| format!("mlx5_{at}")));
    let scores: Vec<u64> = rank(&topology, Some(1)).iter().map(|ranked| ranked.score).collect();
    assert_eq!((scores[3], scores[4]), (100_000, 100_000 * 10 / 21));
    let everywhere = rank(&topology, None);
    assert!(everywhere.iter().all(|ranked| ranked.score == 100_000), "no node, no distance: {everywhere:?}");
}

#[test]
fn gpus_have_their_adapter_behind_the_same_switch() {
    let topology = Topology::read(Machine::gpu_box().root());
    assert_eq!((topology.gpus.len(), topology.nics.len()), (8, 10));
    for (at, gpu) in topology.gpus.iter().enumerate() {
        assert_eq!(gpu.model, "10de:2330");
        for (other, nic) in topology.nics.iter().enumerate() {
            let wanted = match other {
                _ if other == at => Distance::Switch,
                _ if nic.slot.numa == gpu.slot.numa => Distance::Node,
                _ => Distance::System,
            };
            assert_eq!(topology.distance(&gpu.slot, &nic.slot), wanted, "{} and {}", gpu.name, nic.name);
        }
    }
    // InfiniBand of 400 Gbit/s a node away is still faster than Ethernet of 100 beside the memory.
    assert_eq!(ranked(&topology, Some(1))[..4], ["mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7"]);
    assert_eq!(ranked(&topology, Some(1))[8..], ["mlx5_9", "mlx5_8"]);
}

#[test]
fn what_is_down_is_not_ranked_and_what_is_unknown_comes_last() {
    let machine = Machine::new();
    machine.nodes(&["0-3", "4-7"], &["10 20", "20 10"]);
    machine.adapter("pci0000:00/0000:00:01.0", -1, "mlx5_10", "eth10", 100);
    machine.adapter("pci0000:00/0000:00:02.0", 0, "mlx5_9", "eth9", 100);
    machine.rdma("mlx5_11", None, None, 100, "1: DOWN");
    let topology = Topology::read(machine.root());
    let names: Vec<&str> = topology.nics.iter().map(|nic| nic.name.as_str()).collect();
    assert_eq!(names, ["mlx5_9", "mlx5_10", "mlx5_11"], "as people count");
    assert_eq!(ranked(&topology, Some(0)), ["mlx5_9", "mlx5_10"]);
    let mut told = topology.clone();
    assert!(told.override_nic("mlx5_10", 0, Some(200)));
    assert_eq!(ranked(&told, Some(0)), ["mlx5_10", "mlx5_9"]);
    assert!(!told.override_nic("mlx5_99", 0, None));
}

#[test]
fn a_device_of_software_is_where_its_interface_is() {
    let machine = Machine::new();
    let card = machine.function("pci0000:00/0000:00:03.0", -1, ["0x020000", "0x1af4", "0x1041"]);
    machine.interface("eth0", Some(&card.join("virtio0")), 0, "up");
    std::fs::create_dir(card.join("virtio0")).expect("made");
    machine.rdma("rxe0", None, Some("eth0"), 2, "4: ACTIVE");
    let topology = Topology::read(machine.root());
    assert_eq!(topology.nodes.len(), 1, "a kernel without nodes has one");
    assert_eq!(topology.nics.len(), 1, "the interface is not counted again");
    let nic = &topology.nics[0];
    assert_eq!((nic.interface.as_deref(), nic.slot.pci.address()), (Some("eth0"), Some("0000:00:03.0")));
    assert_eq!((nic.slot.numa, nic.gbps, nic.is_up), (None, 2, true));
    assert_eq!(ranked(&topology, Some(0)), ["rxe0"]);
}

#[test]
fn segments_are_dealt_to_the_nodes_by_their_memory() {
    let mut topology = Topology::read(Machine::eight_nics().root());
    let nodes = |placement: &Placement, count: usize| (0..count).map(|at| placement.node(at)).collect::<Vec<_>>();
    let even = Placement::of(&topology, &[], 4);
    assert_eq!((nodes(&even, 5), even.node_count()), (vec![Some(0), Some(1), Some(0), Some(1), None], 2));
    assert_eq!(nodes(&Placement::of(&topology, &[40, 41], 2), 2), [Some(1), Some(1)], "only where we may run");
    topology.nodes[1].memory *= 3;
    assert_eq!(nodes(&Placement::of(&topology, &[], 4), 4), [Some(1), Some(1), Some(0), Some(1)]);
    topology.nodes[0].memory = 0;
    assert_eq!(nodes(&Placement::of(&topology, &[], 2), 2), [Some(1), Some(1)], "a node without memory has none");
}

#[test]
fn a_tree_that_is_not_there_is_a_machine_of_which_nothing_is_known() {
    let topology = Topology::read(std::path::Path::new("/nonexistent"));
    assert_eq!((topology.nodes.len(), topology.nics.len(), topology.gpus.len(), topology.drives.len()), (1, 0, 0, 0));
    assert!(rank(&topology, Some(0)).is_empty());
    assert_eq!(list("0-3,8,x,9-"), [0, 1, 2, 3, 8]);
    assert_eq!(list(""), Vec::<usize>::new());
}

/// This machine's own description agrees with what its processors say of themselves.
#[test]
fn this_machine_is_read() {
    let topology = Topology::read(std::path::Path::new("/"));
    let cpus: usize = topology.nodes.iter().map(|node| node.cpus.len()).sum();
    let usable = std::thread::available_parallelism().expect("known").get();
    assert!(cpus >= usable, "{cpus} processors of nodes, {usable} usable");
    assert!(topology.nodes.iter().map(|node| node.memory).sum::<u64>() > 0);
}
