//! The results, as a table of Markdown.

/// Its first lines.
pub fn head() {
    println!();
    println!("| | component min | median | Extism min | median | Extism / component | quartiles |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
}

/// Microseconds of both sides, round by round.
pub fn row(name: &str, ours: &[f64], theirs: &[f64]) {
    let ratios = sorted(theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours));
    let (ours, theirs) = (sorted(ours.iter().copied()), sorted(theirs.iter().copied()));
    println!(
        "| {name} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} to {:.1} |",
        ours[0],
        quantile(&ours, 0.5),
        theirs[0],
        quantile(&theirs, 0.5),
        quantile(&ratios, 0.5),
        quantile(&ratios, 0.25),
        quantile(&ratios, 0.75),
    );
}

/// Microseconds of a part of Extism's side.
pub fn part_of_extism(name: &str, times: &[f64]) {
    let times = sorted(times.iter().copied());
    println!(
        "| {name} | | | {:.1} | {:.1} | | |",
        times[0],
        quantile(&times, 0.5)
    );
}

fn sorted(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at) as usize]
}
