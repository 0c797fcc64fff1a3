//! What the operating system says about this process: memory, CPU time, descriptors, threads, start.
//!
//! Read on request, on the requesting thread: counting descriptors takes milliseconds if ten thousand are open. Figures that the
//! platform does not provide are left out.

use metrics_process::collector;

use super::{Registrar, table};

/// Sets the gauges, and returns the text of the one metric the recorder cannot hold: its counters are whole numbers, and whole
/// seconds of CPU time are too coarse.
pub(super) fn collect(registrar: &Registrar) -> String {
    let process = collector::collect();
    let gauges = [
        (&table::PROCESS_OPEN_FDS, process.open_fds),
        (&table::PROCESS_MAX_FDS, process.max_fds),
        (&table::PROCESS_RESIDENT, process.resident_memory_bytes),
        (&table::PROCESS_VIRTUAL, process.virtual_memory_bytes),
        (&table::PROCESS_THREADS, process.threads),
        (&table::PROCESS_START, process.start_time_seconds),
    ];
    for (metric, value) in gauges {
        if let Some(value) = value {
            registrar.gauge(metric, &[]).set(value as f64);
        }
    }
    let table::Metric { name, kind, help, .. } = &table::PROCESS_CPU;
    let kind = kind.label();
    process
        .cpu_seconds_total
        .map_or_else(String::new, |seconds| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {seconds}\n"))
}
