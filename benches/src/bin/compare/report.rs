//! The results as Markdown, ready for a page.

use crate::results::{Cell, Results, Store};
use crate::statistics::{Ratio, median};
use crate::target::Endpoints;
use crate::workload::Operation;
use std::fmt::Write;

/// More CPU than this used elsewhere during a cell makes its figures doubtful.
const ELSEWHERE_CPUS_MAX: f64 = 0.25;

type Row = (Operation, usize);

/// The run in a sentence, the table, where CPU time went, and what was out of the ordinary.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = header(results);
    text.push('\n');
    text.push_str(&comparison(results));
    text.push_str(
        "\nCPU time for one operation, in µs, medians: of the three nodes together, and of the generator.\n\n",
    );
    text.push_str(&cpu(results));
    text.push_str(&remarks(results));
    text
}

fn header(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    let versions: Vec<String> = results
        .versions
        .iter()
        .map(|(store, version)| format!("{} ({version}, {})", store.name(), security(*store)))
        .collect();
    let connections = match settings.connections {
        None => "one connection for every hundred clients".to_owned(),
        Some(count) => format!("{count} connections"),
    };
    let mut text = format!(
        "Three nodes each of {}, on one machine: {} CPUs ({}), Linux {}, {}. Values of {} bytes, {} keys, closed loop, {connections}",
        versions.join(" and "),
        machine.cpus,
        machine.cpu_model,
        machine.kernel,
        machine.file_system,
        grouped(settings.value_bytes as f64),
        grouped(settings.keys as f64),
    );
    for (name, endpoints) in [("etcd", settings.etcd_endpoints), ("raftkv", settings.raftkv_endpoints)] {
        if results.versions.iter().any(|(store, _)| (*store == Store::Raftkv) == (name == "raftkv")) {
            let _ = match endpoints {
                Endpoints::Leader => write!(text, ", to {name}'s leader"),
                Endpoints::All => write!(text, ", to all nodes of {name} in turn"),
            };
        }
    }
    let rounds = match settings.rounds {
        1 => "one round".to_owned(),
        rounds => format!("medians of {rounds} rounds, the stores taking turns"),
    };
    let _ = writeln!(text, "; {} s after {} s of warm-up; {rounds}.", settings.seconds, settings.warm_up_seconds);
    text
}

fn security(store: Store) -> &'static str {
    match store {
        Store::Etcd => "plain TCP, no TLS",
        Store::EtcdTls => "mutual TLS",
        Store::Raftkv => "QUIC with mutual TLS 1.3",
    }
}

fn comparison(results: &Results) -> String {
    let stores: Vec<Store> = results.versions.iter().map(|(store, _)| *store).collect();
    let rivals: Vec<Store> =
        stores.iter().copied().filter(|store| *store != Store::Raftkv && stores.contains(&Store::Raftkv)).collect();
    let mut columns = vec!["".to_owned(), "clients".to_owned()];
    columns.extend(stores.iter().map(|store| format!("{} ops/s", store.name())));
    columns.extend(rivals.iter().map(|rival| format!("raftkv ÷ {} (lowest–highest)", rival.name())));
    columns.extend(stores.iter().map(|store| format!("{} p50 / p99 ms", store.name())));
    let rows = results.rows().into_iter().map(|row| {
        let mut fields = named(row);
        fields.extend(stores.iter().map(|store| throughput(results, *store, row)));
        fields.extend(rivals.iter().map(|rival| ratio(results, *rival, row)));
        fields.extend(stores.iter().map(|store| latency(results, *store, row)));
        fields
    });
    table(&columns, rows)
}

fn cpu(results: &Results) -> String {
    let stores: Vec<Store> = results.versions.iter().map(|(store, _)| *store).collect();
    let mut columns = vec!["".to_owned(), "clients".to_owned()];
    columns
        .extend(stores.iter().flat_map(|store| [store.name().to_owned(), format!("generator for {}", store.name())]));
    let rows = results.rows().into_iter().map(|row| {
        let mut fields = named(row);
        for store in &stores {
            fields.push(figure(results, *store, row, |cell| cell.store_cpu_us_per_operation, 0));
            fields.push(figure(results, *store, row, |cell| cell.generator_cpu_us_per_operation, 0));
        }
        fields
    });
    table(&columns, rows)
}

fn named((operation, clients): Row) -> Vec<String> {
    vec![operation.to_string(), grouped(clients as f64)]
}

fn throughput(results: &Results, store: Store, row: Row) -> String {
    figure(results, store, row, |cell| cell.operations_per_second, 0)
}

fn latency(results: &Results, store: Store, row: Row) -> String {
    let p50 = figure(results, store, row, |cell| cell.p50_us as f64 / 1e3, 2);
    let p99 = figure(results, store, row, |cell| cell.p99_us as f64 / 1e3, 2);
    format!("{p50} / {p99}")
}

fn figure(results: &Results, store: Store, row: Row, figure: impl Fn(&Cell) -> f64, decimals: usize) -> String {
    match median(results.over_rounds(store, row, figure)) {
        None => "–".to_owned(),
        Some(value) if decimals == 0 => grouped(value),
        Some(value) => format!("{value:.decimals$}"),
    }
}

fn ratio(results: &Results, rival: Store, row: Row) -> String {
    let speed = |store| results.over_rounds(store, row, |cell| cell.operations_per_second);
    match Ratio::pair_by_pair(&speed(Store::Raftkv), &speed(rival)) {
        None => "–".to_owned(),
        Some(Ratio { median, .. }) if results.settings.rounds == 1 => format!("{median:.2}"),
        Some(Ratio { median, lowest, highest }) => format!("{median:.2} ({lowest:.2}–{highest:.2})"),
    }
}

/// Whatever a reader should know before believing the figures.
fn remarks(results: &Results) -> String {
    let mut text = String::new();
    for cell in results.cells.iter().filter(|cell| cell.failures > 0) {
        let cause = cell.first_failure.as_deref().unwrap_or("unknown");
        let _ = writeln!(text, "- {}: {} operations failed, the first with: {cause}", place(cell), cell.failures);
    }
    let disturbed: Vec<&Cell> =
        results.cells.iter().filter(|cell| cell.cpus_used_elsewhere > ELSEWHERE_CPUS_MAX).collect();
    if let Some(worst) =
        disturbed.iter().max_by(|one, other| one.cpus_used_elsewhere.total_cmp(&other.cpus_used_elsewhere))
    {
        let _ = writeln!(
            text,
            "- In {} of {} measurements more than {ELSEWHERE_CPUS_MAX} CPUs were busy with something else; most, {:.1}, in: {}",
            disturbed.len(),
            results.cells.len(),
            worst.cpus_used_elsewhere,
            place(worst)
        );
    }
    if text.is_empty() { text } else { format!("\nOut of the ordinary:\n\n{text}") }
}

fn place(cell: &Cell) -> String {
    format!(
        "{} {} with {} clients, round {}",
        cell.store.name(),
        cell.operation,
        grouped(cell.clients as f64),
        cell.round
    )
}

/// A table whose first column is text and whose others are numbers.
fn table(columns: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|---{}|\n", columns.join(" | "), "|---:".repeat(columns.len() - 1));
    for row in rows {
        assert_eq!(row.len(), columns.len(), "a row of {} fields in a table of {} columns", row.len(), columns.len());
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Rounded, with a comma between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::measurement::{CpuUse, Measurement, Tally, Window};
    use crate::results::Settings;
    use std::time::{Duration, Instant};

    fn cell(round: usize, store: Store, operation: Operation, clients: usize, operations: u64) -> Cell {
        let from = Instant::now();
        let window = Window { from, until: from + Duration::from_secs(10) };
        let mut tally = Tally::new();
        for _ in 0..operations {
            tally.succeeded(window, from, from + Duration::from_micros(1500));
        }
        let cpu = CpuUse {
            store: Duration::from_millis(operations),
            generator: Duration::ZERO,
            machine: Duration::from_millis(operations),
        };
        Cell::new(round, store, operation, clients, 1, &Measurement { tally, measured: Duration::from_secs(1), cpu })
    }

    fn results(stores: &[Store], cells: Vec<Cell>) -> Results {
        Results {
            machine: Machine {
                cpus: 2,
                cpu_model: "Test CPU".to_owned(),
                kernel: "6.1.0".to_owned(),
                file_system: "ext4".to_owned(),
            },
            versions: stores.iter().map(|store| (*store, "1.2.3".to_owned())).collect(),
            settings: Settings {
                rounds: 3,
                warm_up_seconds: 3,
                seconds: 10,
                keys: 10_000,
                value_bytes: 256,
                connections: None,
                etcd_endpoints: Endpoints::Leader,
                raftkv_endpoints: Endpoints::Leader,
            },
            cells,
        }
    }

    #[test]
    fn the_table_shows_medians_and_ratios_pair_by_pair() {
        let mut cells = Vec::new();
        for (round, theirs, ours) in [(1, 1000, 3000), (2, 200, 500), (3, 2000, 8000)] {
            cells.push(cell(round, Store::Etcd, Operation::Put, 64, theirs));
            cells.push(cell(round, Store::Raftkv, Operation::Put, 64, ours));
        }
        let text = markdown(&results(&[Store::Etcd, Store::Raftkv], cells));
        let expected = "|  | clients | etcd ops/s | raftkv ops/s | raftkv ÷ etcd (lowest–highest) | etcd p50 / p99 ms | raftkv p50 / p99 ms |\n\
                        |---|---:|---:|---:|---:|---:|---:|\n\
                        | put | 64 | 1,000 | 3,000 | 3.00 (2.50–4.00) | 1.50 / 1.50 | 1.50 / 1.50 |\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("| put | 64 | 1,000 | 0 | 1,000 | 0 |"), "{text}");
        assert!(
            text.starts_with(
                "Three nodes each of etcd (1.2.3, plain TCP, no TLS) and raftkv (1.2.3, QUIC with mutual TLS 1.3)"
            ),
            "{text}"
        );
        assert!(!text.contains("Out of the ordinary"), "{text}");
    }

    #[test]
    fn one_store_alone_has_no_ratio() {
        let text = markdown(&results(&[Store::Etcd], vec![cell(1, Store::Etcd, Operation::Get, 1, 5)]));
        assert!(text.contains("|  | clients | etcd ops/s | etcd p50 / p99 ms |\n"), "{text}");
        assert!(!text.contains('÷'), "{text}");
    }

    #[test]
    fn failures_and_a_busy_machine_are_told() {
        let mut doubtful = cell(2, Store::Raftkv, Operation::Put, 1000, 5);
        doubtful.failures = 3;
        doubtful.first_failure = Some("overloaded".to_owned());
        doubtful.cpus_used_elsewhere = 0.8;
        let text = markdown(&results(&[Store::Raftkv], vec![doubtful]));
        assert!(
            text.contains(
                "- raftkv put with 1,000 clients, round 2: 3 operations failed, the first with: overloaded\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("In 1 of 1 measurements more than 0.25 CPUs were busy with something else; most, 0.8, in: raftkv put with 1,000 clients, round 2\n"),
            "{text}"
        );
    }

    #[test]
    fn thousands_are_grouped() {
        let numbers = [0.0, 7.4, 999.6, 12_345.0, 1_234_567.0];
        assert_eq!(numbers.map(grouped), ["0", "7", "1,000", "12,345", "1,234,567"]);
    }
}
