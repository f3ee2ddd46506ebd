use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use candle_core::DType;
use half::bf16;

use super::*;

const PATIENCE: Patience = Patience {
    join: Duration::from_secs(20),
    silence: Duration::from_secs(20),
};

fn in_process(ranks: usize) -> Vec<Box<dyn Collective>> {
    let world = InProcess::world(ranks).into_iter();
    world.map(|rank| Box::new(rank) as _).collect()
}

/// Over the loopback interface.
fn tcp(ranks: usize) -> Vec<Box<dyn Collective>> {
    let world = tcp_world(ranks, PATIENCE).into_iter();
    world.map(|rank| Box::new(rank) as _).collect()
}

fn tcp_world(ranks: usize, patience: Patience) -> Vec<Tcp> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let callers: Vec<_> = (1..ranks)
            .map(|rank| scope.spawn(move || Tcp::connect(address, rank, ranks, "job", patience)))
            .collect();
        let first = Tcp::listen(&listener, ranks, "job", patience).unwrap();
        let others = callers.into_iter().map(|c| c.join().unwrap().unwrap());
        std::iter::once(first).chain(others).collect()
    })
}

/// Runs every rank on a thread of its own; their answers in the order of ranks.
fn on_each<C: Collective, T: Send>(
    world: Vec<C>,
    work: impl Fn(&dyn Collective) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let ranks: Vec<_> = world
            .into_iter()
            .map(|rank| scope.spawn(move || work(&rank)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

impl Collective for Box<dyn Collective> {
    fn rank(&self) -> usize {
        (**self).rank()
    }
    fn world_size(&self) -> usize {
        (**self).world_size()
    }
    fn reduce_scatter(&self, values: &Tensor) -> Result<(), CollectiveError> {
        (**self).reduce_scatter(values)
    }
    fn all_gather(&self, values: &Tensor) -> Result<(), CollectiveError> {
        (**self).all_gather(values)
    }
    fn all_reduce_sum(&self, values: &Tensor) -> Result<(), CollectiveError> {
        (**self).all_reduce_sum(values)
    }
    fn broadcast(&self, values: &Tensor) -> Result<(), CollectiveError> {
        (**self).broadcast(values)
    }
    fn to_first(&self, from: usize, values: &Tensor) -> Result<(), CollectiveError> {
        (**self).to_first(from, values)
    }
    fn stop(&self, reason: &str) {
        (**self).stop(reason);
    }
}

/// What rank `rank` has at `index`; small multiples of an eighth, so that every sum is exact.
fn value(rank: usize, index: usize) -> f64 {
    ((rank * 31 + index * 7) % 64) as f64 / 8.0 - 3.0
}

fn tensor(rank: usize, count: usize, dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..count).map(|i| value(rank, i)).collect();
    let tensor = Tensor::from_vec(values, count, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

fn read(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn every_world(test: impl Fn(&dyn Fn() -> Vec<Box<dyn Collective>>, usize)) {
    test(&|| vec![Box::new(Alone)], 1);
    for ranks in [1, 2, 3, 4] {
        test(&|| in_process(ranks), ranks);
        test(&|| tcp(ranks), ranks);
    }
}

#[test]
fn parts_cover_everything_once_and_are_equal_but_at_the_end() {
    for count in [0, 1, 5, 8, 1000, 4096, 70_001] {
        for ranks in 1..=8 {
            let parts: Vec<_> = (0..ranks).map(|rank| part(count, ranks, rank)).collect();
            let covered: Vec<usize> = parts.iter().cloned().flatten().collect();
            assert_eq!(covered, (0..count).collect::<Vec<_>>());
            assert!(parts.windows(2).all(|p| p[0].len() >= p[1].len()));
            let shorter = parts.iter().filter(|p| p.len() < parts[0].len());
            assert!(count < 10_000 || shorter.count() <= 1);
            assert!(
                parts
                    .iter()
                    .all(|p| p.is_empty() || p.start % ALIGNMENT == 0)
            );
        }
    }
}

#[test]
fn every_rank_gets_the_sum_of_its_part_and_the_parts_of_all() {
    every_world(|world, ranks| {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            for count in [1, 37, 300] {
                let answers = on_each(world(), |rank| {
                    let values = tensor(rank.rank(), count, dtype);
                    rank.reduce_scatter(&values).unwrap();
                    let own = part(count, rank.world_size(), rank.rank());
                    let part = read(&values)[own].to_vec();
                    rank.all_gather(&values).unwrap();
                    (part, read(&values))
                });
                let sums: Vec<f64> = (0..count)
                    .map(|i| (0..ranks).map(|rank| value(rank, i)).sum())
                    .collect();
                for (rank, (own, all)) in answers.iter().enumerate() {
                    assert_eq!(own, &sums[part(count, ranks, rank)]);
                    assert_eq!(all, &sums);
                }
            }
        }
    });
}

#[test]
fn sums_and_the_values_of_rank_0_reach_all() {
    every_world(|world, ranks| {
        let answers = on_each(world(), |rank| {
            let summed = tensor(rank.rank(), 9, DType::F32);
            rank.all_reduce_sum(&summed).unwrap();
            let first = tensor(rank.rank(), 9, DType::BF16);
            rank.broadcast(&first).unwrap();
            let mut host = [1.0, rank.rank() as f64];
            rank.sum(&mut host).unwrap();
            let bytes = rank.broadcast_bytes(format!("from {}", rank.rank()).as_bytes());
            rank.barrier().unwrap();
            (read(&summed), read(&first), host, bytes.unwrap())
        });
        let sums: Vec<f64> = (0..9)
            .map(|i| (0..ranks).map(|rank| value(rank, i)).sum())
            .collect();
        for (summed, first, host, bytes) in answers {
            assert_eq!(summed, sums);
            assert_eq!(first, (0..9).map(|i| value(0, i)).collect::<Vec<_>>());
            assert_eq!(host, [ranks as f64, (ranks * (ranks - 1) / 2) as f64]);
            assert_eq!(bytes, b"from 0");
        }
    });
}

#[test]
fn what_one_rank_wants_all_know() {
    every_world(|world, ranks| {
        for wanting in 0..ranks {
            let answers = on_each(world(), |rank| {
                let nobody = rank.any(false).unwrap();
                (nobody, rank.any(rank.rank() == wanting).unwrap())
            });
            assert_eq!(answers, vec![(false, true); ranks]);
        }
    });
}

/// More than one message, and more than a socket holds.
#[test]
fn long_tensors_arrive_whole() {
    let count = 5_000_001;
    let answers = on_each(tcp(3), |rank| {
        let values = tensor(rank.rank(), count, DType::F32);
        rank.reduce_scatter(&values).unwrap();
        rank.all_gather(&values).unwrap();
        read(&values)
    });
    for values in answers {
        assert_eq!(values.len(), count);
        for (index, found) in values.iter().enumerate() {
            let expected: f64 = (0..3).map(|rank| value(rank, index)).sum();
            assert_eq!(*found, expected, "element {index}");
        }
    }
}

#[test]
fn sums_are_taken_in_the_order_of_ranks_and_bf16_is_rounded_once() {
    let summands = [1.0_f32, 1.0e8, -1.0e8, 3.0];
    let in_order = summands.iter().fold(0.0, |sum, x| sum + x);
    let backwards = summands.iter().rev().fold(0.0, |sum, x| sum + x);
    let in_pairs = (summands[0] + summands[1]) + (summands[2] + summands[3]);
    assert_ne!(in_order, backwards, "the order can be told");
    assert_ne!(in_order, in_pairs, "the order can be told");
    // Each of the small ones alone would vanish beside 256 in bf16.
    let small = [256.0_f32, 0.75, 0.75, 0.75];
    for world in [in_process(4), tcp(4)] {
        let answers = on_each(world, |rank| {
            let long = Tensor::new(&[summands[rank.rank()]], &Device::Cpu).unwrap();
            let short = Tensor::new(&[bf16::from_f32(small[rank.rank()])], &Device::Cpu).unwrap();
            rank.all_reduce_sum(&long).unwrap();
            rank.all_reduce_sum(&short).unwrap();
            (read(&long)[0], read(&short)[0])
        });
        assert_eq!(answers, vec![(f64::from(in_order), 258.0); 4]);
    }
}

#[test]
fn a_part_of_a_tensor_is_changed_and_nothing_beside_it() {
    let answers = on_each(in_process(2), |rank| {
        let whole = Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap();
        let middle = whole.narrow(0, 2, 3).unwrap();
        let values = tensor(rank.rank(), 3, DType::F32);
        middle.slice_set(&values, 0, 0).unwrap();
        rank.all_reduce_sum(&middle).unwrap();
        read(&whole)
    });
    let sum = |i| value(0, i) + value(1, i);
    let expected = [0.0, 0.0, sum(0), sum(1), sum(2), 0.0, 0.0, 0.0];
    assert_eq!(answers, vec![expected; 2]);
}

#[test]
fn tensors_that_cannot_be_exchanged_are_refused() {
    let world = InProcess::world(1);
    let integers = Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap();
    let matrix = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    let bytes = Tensor::zeros(4, DType::U8, &Device::Cpu).unwrap();
    for refused in [&integers, &matrix, &bytes] {
        let error = world[0].all_reduce_sum(refused).unwrap_err().to_string();
        assert!(
            error.starts_with("ranks cannot exchange a tensor"),
            "{error}"
        );
    }
}

#[test]
fn ranks_that_do_different_things_are_told() {
    for world in [in_process(2), tcp(2)] {
        let answers = on_each(world, |rank| {
            let values = tensor(0, 1000 + rank.rank(), DType::F32);
            let result = match rank.rank() {
                0 => rank.all_reduce_sum(&values),
                _ => rank.reduce_scatter(&values),
            };
            result.unwrap_err().to_string()
        });
        assert_eq!(
            answers[0],
            "rank 1 is at a reduce-scatter of 1001 f32 elements, while rank 0 is at a sum of 1000 f32 \
             elements: every rank must be started with the same program, settings and examples"
        );
        assert!(
            answers[1].starts_with("rank 0 stopped: rank 1 is at"),
            "{}",
            answers[1]
        );
    }
}

#[test]
fn the_reason_of_a_rank_that_stops_reaches_all() {
    for world in [in_process(3), tcp(3)] {
        let answers = on_each(world, |rank| {
            if rank.rank() == 2 {
                rank.stop("step 3: the loss is NaN");
                return "rank 2 stopped: step 3: the loss is NaN".to_owned();
            }
            let mut count = [1.0];
            rank.sum(&mut count).unwrap_err().to_string()
        });
        for answer in answers {
            assert_eq!(answer, "rank 2 stopped: step 3: the loss is NaN");
        }
    }
}

#[test]
fn a_rank_that_ended_early_is_missed() {
    for world in [in_process(3), tcp(3)] {
        let answers = on_each(world, |rank| {
            if rank.rank() == 1 {
                return String::new();
            }
            rank.barrier().unwrap_err().to_string()
        });
        for answer in [&answers[0], &answers[2]] {
            // Whoever ends of it may be missed in turn, by those who have not heard of the first.
            assert!(answer.starts_with("rank 1 is gone"), "{answer}");
            assert!(answer.contains("start all ranks again"), "{answer}");
        }
    }
}

/// As if its process were killed: the operating system closes its socket, and no word is said.
#[test]
fn a_rank_whose_process_ends_is_missed_at_once() {
    let (rank_0, rank_2, stranger) = world_with_a_silent_rank_1(Duration::from_secs(60));
    let begun = Instant::now();
    let waiting = on_thread(move || rank_0.barrier().unwrap_err().to_string());
    let other = on_thread(move || rank_2.barrier().unwrap_err().to_string());
    thread::sleep(Duration::from_millis(100));
    drop(stranger);
    for answer in [waiting, other] {
        let answer = answer.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(
            answer.starts_with("rank 1 is gone: its process ended"),
            "{answer}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// As if its machine or the network were gone: the connection stands, and nothing comes.
#[test]
fn a_rank_that_falls_silent_is_given_up() {
    let (rank_0, rank_2, _stranger) = world_with_a_silent_rank_1(Duration::from_secs(1));
    let waiting = on_thread(move || rank_0.barrier().unwrap_err().to_string());
    let other = on_thread(move || rank_2.barrier().unwrap_err().to_string());
    for answer in [waiting, other] {
        let answer = answer.recv_timeout(Duration::from_secs(20)).unwrap();
        let expected = "rank 1 is gone: nothing was heard of it for 1 s";
        assert!(answer.starts_with(expected), "{answer}");
    }
}

/// Slow is not lost: signs of life are given whatever a rank computes.
#[test]
fn a_rank_that_takes_its_time_is_waited_for() {
    let patience = Patience {
        silence: Duration::from_secs(1),
        ..PATIENCE
    };
    let answers = on_each(tcp_world(2, patience), |rank| {
        if rank.rank() == 1 {
            thread::sleep(Duration::from_secs(3));
        }
        let mut count = [1.0];
        rank.sum(&mut count).map(|()| count[0]).unwrap()
    });
    assert_eq!(answers, [2.0, 2.0]);
}

fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (answer, answers) = mpsc::channel();
    thread::spawn(move || answer.send(work()));
    answers
}

/// Ranks 0 and 2 of three, and the bare socket of rank 1.
fn world_with_a_silent_rank_1(silence: Duration) -> (Tcp, Tcp, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Patience {
        silence,
        ..PATIENCE
    };
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(&introduction(1, 3, "job")).unwrap();
    let other = thread::spawn(move || Tcp::connect(address, 2, 3, "job", patience).unwrap());
    let first = Tcp::listen(&listener, 3, "job", patience).unwrap();
    (first, other.join().unwrap(), stranger)
}

fn introduction(rank: u32, world_size: u32, job: &str) -> Vec<u8> {
    let mut bytes = b"pacos ranks 0001".to_vec();
    bytes.extend(rank.to_le_bytes());
    bytes.extend(world_size.to_le_bytes());
    bytes.extend((job.len() as u32).to_le_bytes());
    bytes.extend(job.bytes());
    bytes
}

#[test]
fn strangers_do_not_disturb_and_wrong_ranks_are_turned_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let join = |rank, world_size, job: &'static str| {
        thread::spawn(move || Tcp::connect(address, rank, world_size, job, PATIENCE))
    };
    let mut browser = TcpStream::connect(address).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let first = thread::spawn(move || Tcp::listen(&listener, 3, "job", PATIENCE));
    let refused = [
        (join(1, 2, "job"), "it is one of 2 ranks, and here are 3"),
        (
            join(1, 3, "other"),
            "it is of the run \"other\", and here is \"job\"",
        ),
        (join(3, 3, "job"), "there is no rank 3 of 3"),
    ];
    for (caller, expected) in refused {
        let error = caller.join().unwrap().unwrap_err().to_string();
        assert!(error.starts_with("rank 0 turned rank"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let mut early = TcpStream::connect(address).unwrap();
    early.write_all(&introduction(1, 3, "job")).unwrap();
    thread::sleep(Duration::from_millis(300));
    let error = join(1, 3, "job").join().unwrap().unwrap_err().to_string();
    assert!(error.contains("rank 1 is there already"), "{error}");
    let last = join(2, 3, "job");
    assert!(first.join().unwrap().is_ok());
    assert!(last.join().unwrap().is_ok());
}

#[test]
fn ranks_that_never_come_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Patience {
        join: Duration::from_millis(500),
        ..PATIENCE
    };
    let second = thread::spawn(move || Tcp::connect(address, 2, 4, "job", PATIENCE));
    let error = Tcp::listen(&listener, 4, "job", patience)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("ranks 1, 3 did not come to 127.0.0.1:"),
        "{error}"
    );
    let error = second.join().unwrap().unwrap_err().to_string();
    assert!(
        error.starts_with("rank 0 turned rank 2 away: ranks 1, 3 did not come"),
        "{error}"
    );
    drop(listener);
    let error = Tcp::connect(address, 1, 2, "job", patience)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("rank 1 did not reach rank 0 at 127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn any_rank_can_hand_its_values_to_rank_0() {
    every_world(|world, ranks| {
        let answers = on_each(world(), |rank| {
            (0..ranks)
                .map(|from| {
                    let here: Vec<i16> = vec![rank.rank() as i16 - 7; 3];
                    let values = Tensor::from_vec(here, 3, &Device::Cpu).unwrap();
                    rank.to_first(from, &values).unwrap();
                    values.to_vec1::<i16>().unwrap()[2]
                })
                .collect::<Vec<_>>()
        });
        for (rank, found) in answers.into_iter().enumerate() {
            let expected = (0..ranks).map(|from| if rank == 0 { from } else { rank } as i16 - 7);
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    });
}

#[test]
fn numbers_that_are_not_summed_are_gathered_as_they_are() {
    for world in [in_process(3), tcp(3)] {
        let answers = on_each(world, |rank| {
            let here: Vec<i16> = (0..300).map(|i| (rank.rank() * 1000 + i) as i16).collect();
            let values = Tensor::from_vec(here, 300, &Device::Cpu).unwrap();
            rank.all_gather(&values).unwrap();
            values.to_vec1::<i16>().unwrap()
        });
        let expected: Vec<i16> = (0..3)
            .flat_map(|rank| part(300, 3, rank).map(move |i| (rank * 1000 + i) as i16))
            .collect();
        assert_eq!(answers, vec![expected; 3]);
    }
}

/// Sockets are full of what nobody reads any more, and still all come to an end.
#[test]
fn ranks_end_in_the_middle_of_long_tensors() {
    type Act = fn(&dyn Collective, &Tensor) -> Result<(), CollectiveError>;
    let acts: [Act; 4] = [
        |rank, values| rank.reduce_scatter(values),
        |rank, values| rank.all_gather(values),
        |rank, values| rank.all_reduce_sum(values),
        |rank, values| rank.broadcast(values),
    ];
    for act in acts {
        for stopping in 0..3 {
            let begun = Instant::now();
            let answers = on_each(tcp(3), |rank| {
                let values = tensor(rank.rank(), 8_000_000, DType::F32);
                rank.barrier().unwrap();
                if rank.rank() == stopping {
                    thread::sleep(Duration::from_millis(200));
                    rank.stop("enough");
                    return None;
                }
                // A broadcast may be over for its sender before another stops.
                let error = act(rank, &values).and_then(|()| rank.barrier());
                Some(error.unwrap_err().to_string())
            });
            for answer in answers.into_iter().flatten() {
                assert_eq!(answer, format!("rank {stopping} stopped: enough"));
            }
            assert!(begun.elapsed() < Duration::from_secs(15));
        }
    }
}
