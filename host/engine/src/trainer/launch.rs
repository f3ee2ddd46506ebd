//! Which of several processes this one is, from what launchers put into its environment.
//!
//! torchrun, Open MPI, MPICH and its descendants (Intel MPI), and Slurm's `srun` are known, and looked for
//! in this order: `mpirun` and torchrun are themselves started by `srun` on many clusters, and theirs is
//! then the innermost word. Rank 0 listens at a port of its own, for torchrun's agent holds `MASTER_PORT`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;

use super::collective::{JoinError, Patience, Tcp};

/// Variables of the environment, by name.
pub type Variables = BTreeMap<String, String>;

/// The port of rank 0, where the default is taken.
pub const PORT_VARIABLE: &str = "PACOS_RANKS_PORT";

/// This process among those of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub launcher: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// Its number among those of its machine.
    pub local_rank: usize,
    /// The number of its card, as it sees them: the local rank, unless the launcher shows each process one
    /// card alone.
    pub card: usize,
    /// How many of them run on its machine, where that is known.
    pub local_world_size: Option<usize>,
    /// Name or address of the machine of rank 0.
    pub host: String,
    /// Where rank 0 listens.
    pub port: u16,
    /// A name that the processes of one run share, and those of another do not, as far as is known.
    pub job: String,
}

/// What starts processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// torchrun, or whatever sets the same variables.
    Torchrun,
    /// Open MPI's mpirun.
    OpenMpi,
    /// The mpiexec of MPICH, Intel MPI and others with the Hydra launcher.
    Mpich,
    /// Slurm's srun.
    Slurm,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::Slurm => "Slurm",
        })
    }
}

/// Why the environment does not say which process this is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// One variable of several that belong together.
    #[error(
        "{set} is set, as by {launcher}, and {missing} is not: start all ranks by {launcher}, or unset all of its variables for a run alone"
    )]
    HalfSet {
        /// A variable that is there.
        set: &'static str,
        /// One that should be.
        missing: &'static str,
        /// Who would have set both.
        launcher: Launcher,
    },
    /// A variable that is no number.
    #[error("{name} is {value:?}: expected a number{expected}")]
    NotANumber {
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
        /// More about what was expected.
        expected: &'static str,
    },
    /// Two variables that cannot both be right.
    #[error("{first} and {second} contradict each other: {reason}")]
    Contradiction {
        /// One, with its value.
        first: String,
        /// The other, with its value.
        second: String,
        /// Why.
        reason: &'static str,
    },
    /// Nothing says where rank 0 is.
    #[error(
        "{launcher} started {world_size} ranks and nothing says on which machine rank 0 is: set MASTER_ADDR to its name or address for all ranks{how}"
    )]
    NoAddress {
        /// Who started this process.
        launcher: Launcher,
        /// How many processes.
        world_size: usize,
        /// How to do so.
        how: &'static str,
    },
}

impl Launch {
    /// What this process's environment says; nothing if it runs alone.
    ///
    /// # Errors
    /// If it says half of it, or two things at once.
    pub fn from_environment() -> Result<Option<Self>, LaunchError> {
        // A name or value that is no text is none of those that are looked for.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::find(&std::env::vars_os().filter_map(text).collect())
    }

    /// What an environment says; nothing if the process runs alone.
    ///
    /// # Errors
    /// If it says half of it, or two things at once.
    pub fn find(variables: &Variables) -> Result<Option<Self>, LaunchError> {
        let environment = Environment(variables);
        for find in [torchrun, open_mpi, mpich, slurm] {
            if let Some(launch) = find(&environment)? {
                return Ok(Some(launch).filter(|launch| launch.world_size > 1));
            }
        }
        environment.expect_no_halves()?;
        Ok(None)
    }

    /// Waits for the other ranks, and connects them.
    ///
    /// # Errors
    /// If they do not come, or this one is turned away.
    pub fn join(&self, patience: Patience) -> Result<Tcp, JoinError> {
        let (world_size, job) = (self.world_size, self.job.as_str());
        let host = match self.host.as_str() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        if self.rank > 0 {
            let address = format!("{host}:{}", self.port);
            return Tcp::connect(address, self.rank, world_size, job, patience);
        }
        // Only a loopback address is listened at as such: a machine's own name often means another
        // address on the machine itself than elsewhere.
        let local = ["localhost", "::1"].contains(&self.host.as_str()) || host.starts_with("127.");
        let interface = match () {
            () if local => host.as_str(),
            () if host.starts_with('[') => "[::]",
            () => "0.0.0.0",
        };
        let address = format!("{interface}:{}", self.port);
        let listener =
            TcpListener::bind(&address).map_err(|source| JoinError::Listen { address, source })?;
        Tcp::listen(&listener, world_size, job, patience)
    }
}

/// Reads variables; an empty one is none.
struct Environment<'a>(&'a Variables);

impl Environment<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    fn number(&self, name: &'static str) -> Result<Option<usize>, LaunchError> {
        let parse = |value: &str| {
            value.parse().map_err(|_| LaunchError::NotANumber {
                name,
                value: value.to_owned(),
                expected: " of 0 or more",
            })
        };
        self.text(name).map(parse).transpose()
    }

    fn port(&self, name: &'static str) -> Result<Option<u16>, LaunchError> {
        let parse = |value: &str| match value.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(LaunchError::NotANumber {
                name,
                value: value.to_owned(),
                expected: " from 1 to 65535",
            }),
        };
        self.text(name).map(parse).transpose()
    }

    /// srun --gpus-per-task and the like show each process its own card, which is then its first.
    fn card(&self, local_rank: usize) -> usize {
        match self.text("CUDA_VISIBLE_DEVICES") {
            Some(cards) if !cards.contains(',') => 0,
            _ => local_rank,
        }
    }

    /// A variable that belongs to another, which is set.
    fn beside<T>(
        &self,
        launcher: Launcher,
        set: &'static str,
        missing: &'static str,
        found: Option<T>,
    ) -> Result<T, LaunchError> {
        found.ok_or(LaunchError::HalfSet {
            set,
            missing,
            launcher,
        })
    }

    /// Rank and world size, where the first is set.
    fn place(
        &self,
        launcher: Launcher,
        rank_name: &'static str,
        size_name: &'static str,
    ) -> Result<Option<(usize, usize)>, LaunchError> {
        let Some(rank) = self.number(rank_name)? else {
            return Ok(None);
        };
        let size = self.number(size_name)?;
        let world_size = self.beside(launcher, rank_name, size_name, size)?;
        below(rank_name, rank, size_name, world_size)?;
        Ok(Some((rank, world_size)))
    }

    /// Refuses what says that there are others, and not which of them this process is.
    fn expect_no_halves(&self) -> Result<(), LaunchError> {
        let halves = [
            ("WORLD_SIZE", "RANK", Launcher::Torchrun),
            (
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_RANK",
                Launcher::OpenMpi,
            ),
            ("PMI_SIZE", "PMI_RANK", Launcher::Mpich),
        ];
        for (set, missing, launcher) in halves {
            if self.number(set)?.is_some_and(|ranks| ranks > 1) {
                return Err(LaunchError::HalfSet {
                    set,
                    missing,
                    launcher,
                });
            }
        }
        Ok(())
    }

    /// Where rank 0 listens: as `PACOS_RANKS_PORT` says, else so far from `MASTER_PORT` that two runs
    /// with neighbouring ones do not meet, else the default.
    fn port_of_rank_0(&self, default: u16) -> Result<u16, LaunchError> {
        let master = self.port("MASTER_PORT")?;
        if let Some(port) = self.port(PORT_VARIABLE)? {
            return Ok(port);
        }
        Ok(master.map_or(default, |master| {
            master
                .checked_add(1000)
                .unwrap_or(master.saturating_sub(1000))
        }))
    }

    /// How many tasks Slurm starts on a machine, as in `4(x2)` or `4(x2),3`: the first, which has most.
    fn tasks_per_node(&self) -> Result<Option<usize>, LaunchError> {
        let name = "SLURM_STEP_TASKS_PER_NODE";
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        let digits = value.split(|c: char| !c.is_ascii_digit()).next();
        match digits.unwrap_or_default().parse() {
            Ok(tasks) if tasks > 0 => Ok(Some(tasks)),
            _ => Err(LaunchError::NotANumber {
                name,
                value: value.to_owned(),
                expected: " of 1 or more in front",
            }),
        }
    }

    /// MPI's launchers do not say where rank 0 is, unless all are on one machine.
    fn host_for_mpi(
        &self,
        launcher: Launcher,
        world_size: usize,
        local: Option<usize>,
        how: &'static str,
    ) -> Result<String, LaunchError> {
        if let Some(host) = self.text("MASTER_ADDR") {
            return Ok(host.to_owned());
        }
        if local == Some(world_size) {
            return Ok(LOOPBACK.to_owned());
        }
        Err(LaunchError::NoAddress {
            launcher,
            world_size,
            how,
        })
    }
}

const LOOPBACK: &str = "127.0.0.1";

/// Where rank 0 listens when nothing else says a number.
const DEFAULT_PORT: u16 = 28_700;

fn below(
    name: &'static str,
    number: usize,
    limit_name: &'static str,
    limit: usize,
) -> Result<(), LaunchError> {
    if number < limit {
        return Ok(());
    }
    Err(LaunchError::Contradiction {
        first: format!("{name}={number}"),
        second: format!("{limit_name}={limit}"),
        reason: "ranks are counted from 0 to below their number",
    })
}

fn torchrun(environment: &Environment<'_>) -> Result<Option<Launch>, LaunchError> {
    let launcher = Launcher::Torchrun;
    let Some((rank, world_size)) = environment.place(launcher, "RANK", "WORLD_SIZE")? else {
        return Ok(None);
    };
    let local = environment.number("LOCAL_RANK")?;
    let host = environment.text("MASTER_ADDR");
    if world_size == 1 {
        let host = host.unwrap_or(LOOPBACK);
        return Ok(Some(alone(launcher, host)));
    }
    let local_rank = environment.beside(launcher, "RANK", "LOCAL_RANK", local)?;
    let host = environment.beside(launcher, "RANK", "MASTER_ADDR", host)?;
    let master = environment.port("MASTER_PORT")?;
    let master = environment.beside(launcher, "RANK", "MASTER_PORT", master)?;
    let local_world_size = environment.number("LOCAL_WORLD_SIZE")?;
    below("LOCAL_RANK", local_rank, "WORLD_SIZE", world_size)?;
    if let Some(size) = local_world_size {
        below("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", size)?;
    }
    let port = environment.port_of_rank_0(DEFAULT_PORT)?;
    if port == master {
        return Err(LaunchError::Contradiction {
            first: format!("{PORT_VARIABLE}={port}"),
            second: format!("MASTER_PORT={master}"),
            reason: "torchrun itself listens at MASTER_PORT, so rank 0 needs another",
        });
    }
    Ok(Some(Launch {
        launcher,
        rank,
        world_size,
        local_rank,
        card: environment.card(local_rank),
        local_world_size,
        host: host.to_owned(),
        port,
        job: job(environment, &["TORCHELASTIC_RUN_ID", "MASTER_PORT"]),
    }))
}

fn open_mpi(environment: &Environment<'_>) -> Result<Option<Launch>, LaunchError> {
    let launcher = Launcher::OpenMpi;
    let (rank, size) = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
    let Some((rank, world_size)) = environment.place(launcher, rank, size)? else {
        return Ok(None);
    };
    if world_size == 1 {
        return Ok(Some(alone(launcher, LOOPBACK)));
    }
    let local_name = "OMPI_COMM_WORLD_LOCAL_RANK";
    let local = environment.number(local_name)?;
    let local_rank = environment.beside(launcher, "OMPI_COMM_WORLD_RANK", local_name, local)?;
    below(local_name, local_rank, size, world_size)?;
    let local_world_size = environment.number("OMPI_COMM_WORLD_LOCAL_SIZE")?;
    let how = " (mpirun -x MASTER_ADDR=...)";
    Ok(Some(Launch {
        launcher,
        rank,
        world_size,
        local_rank,
        card: environment.card(local_rank),
        local_world_size,
        host: environment.host_for_mpi(launcher, world_size, local_world_size, how)?,
        port: environment.port_of_rank_0(DEFAULT_PORT)?,
        job: job(environment, &["PMIX_NAMESPACE"]),
    }))
}

fn mpich(environment: &Environment<'_>) -> Result<Option<Launch>, LaunchError> {
    let launcher = Launcher::Mpich;
    let Some((rank, world_size)) = environment.place(launcher, "PMI_RANK", "PMI_SIZE")? else {
        return Ok(None);
    };
    if world_size == 1 {
        return Ok(Some(alone(launcher, LOOPBACK)));
    }
    // `srun --mpi=pmi2` sets these two as well. Slurm then knows more.
    let local_name = "MPI_LOCALRANKID";
    let local = environment.number(local_name)?;
    if local.is_none()
        && let Some(step) = slurm(environment)?
        && (step.rank, step.world_size) == (rank, world_size)
    {
        return Ok(Some(step));
    }
    let local_rank = environment.beside(launcher, "PMI_RANK", local_name, local)?;
    below(local_name, local_rank, "PMI_SIZE", world_size)?;
    let local_world_size = environment.number("MPI_LOCALNRANKS")?;
    let how = " (mpiexec -genv MASTER_ADDR ...)";
    Ok(Some(Launch {
        launcher,
        rank,
        world_size,
        local_rank,
        card: environment.card(local_rank),
        local_world_size,
        host: environment.host_for_mpi(launcher, world_size, local_world_size, how)?,
        port: environment.port_of_rank_0(DEFAULT_PORT)?,
        job: job(environment, &[]),
    }))
}

/// The ids of steps that are a batch script or an interactive shell, and no work of `srun`'s.
const SHELL_STEPS: [&str; 2] = ["4294967291", "4294967290"];

fn slurm(environment: &Environment<'_>) -> Result<Option<Launch>, LaunchError> {
    let launcher = Launcher::Slurm;
    let step = ["SLURM_STEP_ID", "SLURM_STEPID"];
    let step = step.iter().find_map(|name| environment.text(name));
    // A batch script and a shell of `salloc` have the numbers of the job and are no rank of it.
    let tasks = match environment.number("SLURM_STEP_NUM_TASKS")? {
        Some(tasks) => Some(("SLURM_STEP_NUM_TASKS", tasks)),
        None if step.is_some() => {
            let tasks = environment.number("SLURM_NTASKS")?;
            tasks.map(|tasks| ("SLURM_NTASKS", tasks))
        }
        None => None,
    };
    let rank = environment.number("SLURM_PROCID")?;
    let of_a_shell = step.is_some_and(|step| SHELL_STEPS.contains(&step));
    let (rank, size_name, world_size) = match (rank, tasks) {
        (Some(rank), Some((name, size))) => (rank, name, size),
        (Some(_), None) if step.is_some() && !of_a_shell => {
            return Err(LaunchError::HalfSet {
                set: "SLURM_PROCID",
                missing: "SLURM_STEP_NUM_TASKS",
                launcher,
            });
        }
        _ => return Ok(None),
    };
    if of_a_shell || world_size == 1 {
        return Ok(Some(alone(launcher, LOOPBACK)));
    }
    below("SLURM_PROCID", rank, size_name, world_size)?;
    let local = environment.number("SLURM_LOCALID")?;
    let local_rank = environment.beside(launcher, "SLURM_PROCID", "SLURM_LOCALID", local)?;
    below("SLURM_LOCALID", local_rank, size_name, world_size)?;
    if let Some(size) = environment.number("WORLD_SIZE")?
        && size != world_size
    {
        return Err(LaunchError::Contradiction {
            first: format!("WORLD_SIZE={size}"),
            second: format!("{size_name}={world_size}"),
            reason: "both say how many ranks there are",
        });
    }
    let nodes = ["SLURM_STEP_NODELIST", "SLURM_NODELIST"];
    let nodes = nodes.iter().find_map(|name| environment.text(name));
    let one_node = match environment.number("SLURM_STEP_NUM_NODES")? {
        Some(nodes) => nodes == 1,
        None => nodes.is_some_and(|list| !list.contains([',', '['])),
    };
    let host = match (environment.text("MASTER_ADDR"), nodes) {
        (Some(host), _) => host.to_owned(),
        _ if one_node => LOOPBACK.to_owned(),
        (None, Some(list)) => first_node(list),
        (None, None) => match environment.text("SLURM_LAUNCH_NODE_IPADDR") {
            Some(host) => host.to_owned(),
            None => {
                return Err(LaunchError::NoAddress {
                    launcher,
                    world_size,
                    how: " (export MASTER_ADDR=... before srun)",
                });
            }
        },
    };
    // Two jobs on one machine should not meet, and all ranks of a job must think of the same number. It
    // stays below those that Linux gives to outgoing connections.
    let id = environment.number("SLURM_JOB_ID")?.unwrap_or(0);
    let step_id = step.and_then(|step| step.parse::<usize>().ok());
    let spread = (id.wrapping_mul(31)).wrapping_add(step_id.unwrap_or(0)) % 10_000;
    Ok(Some(Launch {
        launcher,
        rank,
        world_size,
        local_rank,
        card: environment.card(local_rank),
        local_world_size: match one_node {
            true => Some(world_size),
            false => environment.tasks_per_node()?,
        },
        host,
        port: environment.port_of_rank_0(20_000 + spread as u16)?,
        job: job(
            environment,
            &["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEPID"],
        ),
    }))
}

/// A run of one process.
fn alone(launcher: Launcher, host: &str) -> Launch {
    Launch {
        launcher,
        rank: 0,
        world_size: 1,
        local_rank: 0,
        card: 0,
        local_world_size: Some(1),
        host: host.to_owned(),
        port: DEFAULT_PORT,
        job: String::new(),
    }
}

fn job(environment: &Environment<'_>, names: &[&str]) -> String {
    let values: Vec<&str> = names
        .iter()
        .filter_map(|name| environment.text(name))
        .collect();
    values.join(".")
}

/// The first of a list of machines as Slurm writes it: `gpu[03-05,9],login` begins with `gpu03`.
fn first_node(list: &str) -> String {
    let mut name = String::new();
    let mut rest = list.trim();
    while let Some(end) = rest.find(['[', ',']) {
        name.push_str(&rest[..end]);
        if rest[end..].starts_with(',') {
            return name;
        }
        let (numbers, behind) = rest[end + 1..]
            .split_once(']')
            .unwrap_or((&rest[end + 1..], ""));
        let first = numbers.split([',', '-']).next().unwrap_or_default();
        name.push_str(first);
        rest = behind;
    }
    name + rest
}

#[cfg(test)]
mod tests;
