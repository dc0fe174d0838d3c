# SPDX-License-Identifier: MIT
"""Turns samples into medians, ratios, a table and a JSON document."""

import dataclasses
import statistics


def summarise(samples):
    """Cell name -> exporter name -> medians and spread."""
    return {
        cell: {name: summarise_one(runs) for name, runs in by_exporter.items() if runs}
        for cell, by_exporter in samples.items()
    }


def summarise_one(runs):
    """The medians of one exporter in one cell, and the range of its rates."""
    def median(field):
        values = [getattr(run, field) for run in runs]
        return None if None in values else statistics.median(values)

    summary = {field.name: median(field.name) for field in dataclasses.fields(runs[0])}
    rates = [run.requests_per_second for run in runs]
    summary["requests_per_second_range"] = [min(rates), max(rates)]
    summary["runs"] = len(runs)
    return summary


def reference(by_exporter):
    """The exporter that the others are compared with: pvdisk as it is by default, or the passthrough without pvdisk."""
    return next((name for name in ("pvdisk-dev", "pvdisk-uring", "PT") if name in by_exporter), None)


def table(summary, selected, machine):
    """The report for a reader."""
    lines = [
        f"{machine['date']}, {machine['cpus']} CPUs ({machine['cpu_model']}), Linux {machine['kernel']}, "
        f"{machine['fio']}, image of {machine['image_mib']} MiB on {machine['file_system']}, in the page cache",
        f"placement: {machine['placement']}; load at start {machine['load_at_start']:.2f}",
        "Medians, and the range of all runs; latency in us; CPU time of the server's processes, and of server and fio "
        "together, for one request in us.",
    ]
    if machine["pvdisk_options"]:
        lines.append(f"pvdisk options: {' '.join(machine['pvdisk_options'])}")
    for cell in selected:
        by_exporter = summary[cell.name]
        first = reference(by_exporter)
        unit = "MB/s" if cell.is_bulk else "k IOPS"
        lines += ["", f"{cell.name}", f"  {'':12} {unit:>9} {'(range)':>19} {'p50':>9} {'p99':>9} {'p99.9':>9} "
                  f"{'cpu/req':>8} {'with fio':>8}" + (f"  {first}/this" if first else "")]
        for name, one in by_exporter.items():
            lines.append(row(name, one, cell, by_exporter[first] if first else None))
    return "\n".join(lines)


def row(name, one, cell, first):
    """One exporter in one cell."""
    scale = one["bytes_per_second"] / one["requests_per_second"] / 1e6 if cell.is_bulk else 1e-3
    low, high = (rate * scale for rate in one["requests_per_second_range"])
    server = one["server_cpu_us"]
    text = (
        f"  {name:12} {one['requests_per_second'] * scale:9.1f} {f'({low:.1f}-{high:.1f})':>19} {one['p50_us']:9.1f} "
        f"{one['p99_us']:9.1f} {one['p999_us']:9.1f} {f'{server:8.2f}' if server is not None else '       -'} "
        f"{(server or 0) + one['client_cpu_us']:8.2f}")
    if first:
        text += f"  {first['requests_per_second'] / one['requests_per_second']:8.2f}"
    return text


def document(summary, samples, machine):
    """The whole, for programs: the machine, the medians with ratios, and every sample."""
    ratios = {}
    for cell, by_exporter in summary.items():
        first = reference(by_exporter)
        if first:
            rate = by_exporter[first]["requests_per_second"]
            ratios[cell] = {
                f"{first}/{name}": rate / one["requests_per_second"]
                for name, one in by_exporter.items() if name != first
            }
    return {
        "machine": machine, "summary": summary, "ratios": ratios,
        "samples": {
            cell: {name: [dataclasses.asdict(run) for run in runs] for name, runs in by_exporter.items()}
            for cell, by_exporter in samples.items()
        },
    }
