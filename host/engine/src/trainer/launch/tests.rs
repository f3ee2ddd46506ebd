use std::thread;
use std::time::Duration;

use super::*;
use crate::trainer::collective::Collective;

fn variables(text: &str) -> Variables {
    text.split_whitespace()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn find(text: &str) -> Option<Launch> {
    Launch::find(&variables(text)).unwrap()
}

fn refused(text: &str) -> String {
    Launch::find(&variables(text)).unwrap_err().to_string()
}

const TORCHRUN: &str = "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 GROUP_RANK=1 \
    MASTER_ADDR=10.1.2.3 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none";

const SRUN: &str = "SLURM_JOB_ID=17 SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_NTASKS=8 \
    SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=1 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=gpu[03-04] \
    SLURM_LAUNCH_NODE_IPADDR=10.0.0.9";

const MPIRUN: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
    OMPI_COMM_WORLD_LOCAL_SIZE=2";

const MPIEXEC: &str = "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";

#[test]
fn a_process_by_itself_runs_alone() {
    let alone = [
        "",
        "PATH=/bin MASTER_ADDR=here MASTER_PORT=29500 LOCAL_RANK=0 WORLD_SIZE=1",
        "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=localhost MASTER_PORT=29500",
        "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1",
        "PMI_RANK=0 PMI_SIZE=1",
        // srun with one task.
        "SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0",
        // The shell of salloc.
        "SLURM_JOB_ID=1 SLURM_NTASKS=8 SLURM_NNODES=2 SLURM_NODELIST=gpu[1-2]",
        // The same as a step of its own.
        "SLURM_JOB_ID=1 SLURM_STEP_ID=4294967290 SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0",
        // A batch script, with the id of its step and without.
        "SLURM_JOB_ID=1 SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODELIST=gpu[1-2]",
        "SLURM_JOB_ID=1 SLURM_STEP_ID=4294967291 SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0",
        // An empty variable is none.
        "RANK= WORLD_SIZE=",
    ];
    for text in alone {
        assert_eq!(find(text), None, "{text}");
    }
}

#[test]
fn every_launcher_is_understood() {
    assert_eq!(
        find(TORCHRUN),
        Some(Launch {
            launcher: Launcher::Torchrun,
            rank: 3,
            world_size: 8,
            local_rank: 1,
            card: 1,
            local_world_size: Some(2),
            host: "10.1.2.3".into(),
            port: 30_500,
            job: "none.29500".into(),
        })
    );
    assert_eq!(
        find(SRUN),
        Some(Launch {
            launcher: Launcher::Slurm,
            rank: 5,
            world_size: 8,
            local_rank: 1,
            card: 1,
            local_world_size: None,
            host: "gpu03".into(),
            port: 20_000 + 17 * 31,
            job: "17.0".into(),
        })
    );
    let one_machine = Launch {
        launcher: Launcher::OpenMpi,
        rank: 1,
        world_size: 2,
        local_rank: 1,
        card: 1,
        local_world_size: Some(2),
        host: "127.0.0.1".into(),
        port: DEFAULT_PORT,
        job: String::new(),
    };
    assert_eq!(find(MPIRUN), Some(one_machine.clone()));
    let launcher = Launcher::Mpich;
    assert_eq!(
        find(MPIEXEC),
        Some(Launch {
            launcher,
            ..one_machine
        })
    );
}

#[test]
fn the_innermost_launcher_counts() {
    let inner = find(&format!("{SRUN} {MPIRUN} {TORCHRUN}")).unwrap();
    assert_eq!((inner.launcher, inner.rank), (Launcher::Torchrun, 3));
    let inner = find(&format!("{SRUN} {MPIRUN}")).unwrap();
    assert_eq!((inner.launcher, inner.rank), (Launcher::OpenMpi, 1));
    // srun --mpi=pmi2 says the same as srun, and less.
    let pmi2 = find(&format!("{SRUN} PMI_RANK=5 PMI_SIZE=8")).unwrap();
    assert_eq!((pmi2.launcher, pmi2.local_rank), (Launcher::Slurm, 1));
}

#[test]
fn rank_0_is_found_where_slurm_puts_it() {
    let host = |text: &str| find(text).unwrap().host;
    assert_eq!(host(&format!("{SRUN} MASTER_ADDR=head")), "head");
    assert_eq!(host(&SRUN.replace("gpu[03-04]", "a7,a9")), "a7");
    assert_eq!(
        host(&SRUN.replace("NUM_NODES=2", "NUM_NODES=1")),
        "127.0.0.1"
    );
    let without = SRUN.replace("SLURM_STEP_NODELIST", "NOTHING");
    assert_eq!(host(&without), "10.0.0.9");
    let older = SRUN.replace("SLURM_STEP_NUM_TASKS=8", "");
    assert_eq!(find(&older), find(SRUN));
    for (list, first) in [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[1-3]", "gpu1"),
        ("gpu[007,9]-ib,x", "gpu007-ib"),
        ("rack[2-3]n[08-11]", "rack2n08"),
    ] {
        assert_eq!(first_node(list), first);
    }
}

#[test]
fn a_process_that_sees_one_card_takes_it() {
    let card = |cards: &str| {
        find(&format!("{SRUN} CUDA_VISIBLE_DEVICES={cards}"))
            .unwrap()
            .card
    };
    assert_eq!((card("3"), card("0,1,2,3"), card("")), (0, 1, 1));
    let neighbours = |tasks: &str| {
        let text = format!("{SRUN} SLURM_STEP_TASKS_PER_NODE={tasks}");
        find(&text).unwrap().local_world_size
    };
    assert_eq!((neighbours("4(x2)"), neighbours("5,3")), (Some(4), Some(5)));
    let message = refused(&format!("{SRUN} SLURM_STEP_TASKS_PER_NODE=(x2)"));
    assert!(
        message.starts_with("SLURM_STEP_TASKS_PER_NODE is"),
        "{message}"
    );
}

#[test]
fn the_port_keeps_away_from_that_of_torchrun() {
    let port = |text: &str| find(text).unwrap().port;
    assert_eq!(port(&TORCHRUN.replace("29500", "65000")), 64_000);
    assert_eq!(port(&format!("{TORCHRUN} PACOS_RANKS_PORT=4000")), 4000);
    assert_eq!(port(&format!("{MPIRUN} PACOS_RANKS_PORT=4000")), 4000);
    assert_eq!(
        refused(&format!("{TORCHRUN} PACOS_RANKS_PORT=29500")),
        "PACOS_RANKS_PORT=29500 and MASTER_PORT=29500 contradict each other: torchrun itself listens at \
         MASTER_PORT, so rank 0 needs another"
    );
}

#[test]
fn half_of_it_is_refused_by_name() {
    assert_eq!(
        refused("RANK=1"),
        "RANK is set, as by torchrun, and WORLD_SIZE is not: start all ranks by torchrun, or unset all \
         of its variables for a run alone"
    );
    for (text, set, missing) in [
        ("WORLD_SIZE=4", "WORLD_SIZE", "RANK"),
        (
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1",
            "RANK",
            "LOCAL_RANK",
        ),
        (
            "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_PORT=1",
            "RANK",
            "MASTER_ADDR",
        ),
        (
            "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a",
            "RANK",
            "MASTER_PORT",
        ),
        (
            "OMPI_COMM_WORLD_RANK=0",
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
        ),
        (
            "OMPI_COMM_WORLD_SIZE=2",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_RANK",
        ),
        ("PMI_SIZE=2", "PMI_SIZE", "PMI_RANK"),
        ("PMI_RANK=0 PMI_SIZE=2", "PMI_RANK", "MPI_LOCALRANKID"),
        (
            "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2",
            "SLURM_PROCID",
            "SLURM_LOCALID",
        ),
    ] {
        let message = refused(text);
        assert!(message.starts_with(&format!("{set} is set")), "{message}");
        assert!(
            message.contains(&format!("and {missing} is not")),
            "{message}"
        );
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (text, first, second) in [
        ("RANK=2 WORLD_SIZE=2", "RANK=2", "WORLD_SIZE=2"),
        (
            &*TORCHRUN.replace("LOCAL_RANK=1", "LOCAL_RANK=2"),
            "LOCAL_RANK=2",
            "LOCAL_WORLD_SIZE=2",
        ),
        (
            &*format!("{SRUN} WORLD_SIZE=4"),
            "WORLD_SIZE=4",
            "SLURM_STEP_NUM_TASKS=8",
        ),
        (
            &*SRUN.replace("PROCID=5", "PROCID=8"),
            "SLURM_PROCID=8",
            "SLURM_STEP_NUM_TASKS=8",
        ),
    ] {
        let message = refused(text);
        assert!(
            message.starts_with(&format!("{first} and {second} contradict")),
            "{message}"
        );
    }
    assert_eq!(
        refused("RANK=one WORLD_SIZE=2"),
        "RANK is \"one\": expected a number of 0 or more"
    );
    assert_eq!(
        refused(&TORCHRUN.replace("29500", "99999")),
        "MASTER_PORT is \"99999\": expected a number from 1 to 65535"
    );
    assert_eq!(
        refused(&MPIRUN.replace("LOCAL_SIZE=2", "LOCAL_SIZE=1")),
        "Open MPI started 2 ranks and nothing says on which machine rank 0 is: set MASTER_ADDR to its \
         name or address for all ranks (mpirun -x MASTER_ADDR=...)"
    );
}

#[test]
fn processes_join_as_their_variables_say() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let patience = Patience {
        join: Duration::from_secs(20),
        silence: Duration::from_secs(20),
    };
    let sums = thread::scope(|scope| {
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                let launch = find(&format!(
                    "RANK={rank} WORLD_SIZE=3 LOCAL_RANK={rank} MASTER_ADDR=localhost MASTER_PORT=1 \
                     PACOS_RANKS_PORT={port}"
                ));
                scope.spawn(move || {
                    let rank = launch.unwrap().join(patience).unwrap();
                    let mut number = [rank.rank() as f64];
                    rank.sum(&mut number).unwrap();
                    number[0]
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|r| r.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(sums, [3.0, 3.0, 3.0]);
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let launch = find(&format!(
        "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=1 PACOS_RANKS_PORT={port}"
    ));
    let error = launch.unwrap().join(patience).unwrap_err().to_string();
    assert!(
        error.contains(&format!("cannot listen at 127.0.0.1:{port}")),
        "{error}"
    );
    assert!(error.contains("PACOS_RANKS_PORT"), "{error}");
    drop(taken);
}
