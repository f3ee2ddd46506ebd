//! The results, as tables of Markdown. All times are microseconds, a minimum and a median.

/// Head of the table of calls.
pub const CALLS: &str = "\
| Calls, min / median µs | plain call | component | Extism | its JSON in the host | Extism / component | quartiles |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |";

/// Head of the table of starts.
pub const STARTS: &str = "\
| Starts, min / median µs | component | Extism | Extism / component | quartiles |
| --- | ---: | ---: | ---: | ---: |";

/// A plain call, the component, Extism, JSON in Extism's host, round by round.
pub fn calls(name: &str, [plain, component, extism, json]: &[Vec<f64>; 4]) {
    let [plain, json] = [plain, json].map(|times| times_of(times));
    let [ours, theirs] = [component, extism].map(|times| times_of(times));
    println!(
        "| {name} | {plain} | {ours} | {theirs} | {json} | {} |",
        ratio(component, extism)
    );
}

/// The component and Extism, round by round.
pub fn start(name: &str, component: &[f64], extism: &[f64]) {
    let [ours, theirs] = [component, extism].map(times_of);
    println!(
        "| {name} | {ours} | {theirs} | {} |",
        ratio(component, extism)
    );
}

fn times_of(times: &[f64]) -> String {
    let times = sorted(times.iter().copied());
    let digits = usize::from(times[0] < 100.0);
    format!("{:.digits$} / {:.digits$}", times[0], quantile(&times, 0.5))
}

/// Of each round; median and quartiles.
fn ratio(component: &[f64], extism: &[f64]) -> String {
    let ratios = sorted(
        extism
            .iter()
            .zip(component)
            .map(|(theirs, ours)| theirs / ours),
    );
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|at| quantile(&ratios, at));
    format!("{middle:.2} | {low:.2} to {high:.2}")
}

fn sorted(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at) as usize]
}
