// SPDX-License-Identifier: MIT

import Figures

/// Experiments as one page that needs nothing else: text, tables, plots and ring drawings.
public struct LabPage: Sendable {
  private let records: [LabRecord]
  private let machine: LabMachine
  private let effort: LabEffort

  /// Takes records.
  public init(_ records: [LabRecord], machine: LabMachine, effort: LabEffort) {
    self.records = records
    self.machine = machine
    self.effort = effort
  }

  /// The page.
  public var html: String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>pvdisk lab</title>
    <style>
    \(LabPage.style)</style>
    </head>
    <body>
    <header>
    <h1>The Xen block protocol overhaul, measured</h1>
    <p>In December 2012 the Xen developers listed what was wrong with their block protocol, problems A to J. Here each of them is an \
    experiment: the claim, what was measured, and what came out.</p>
    <p class="machine">\(LabPage.escaped(machine.sentence))\
    \(effort.isQuick ? " <strong>A quick run: no figure on this page means anything.</strong>" : "")</p>
    <nav>\(records.map { "<a href=\"#\($0.name)\"><b>\($0.name)</b> \(LabPage.escaped($0.title))</a>" }.joined())</nav>
    </header>
    <main>
    \(records.map(section).joined())</main>
    </body>
    </html>

    """
  }

  private func section(_ record: LabRecord) -> String {
    let findings = record.findings
    let parameters = findings.parameters.map {
      "<dt>\(LabPage.escaped($0.name))</dt><dd>\(LabPage.escaped($0.value))</dd>"
    }
    var html =
      "<section id=\"\(record.name)\">\n<h2><span>\(record.name)</span> \(LabPage.escaped(record.title))</h2>\n"
    html += "<blockquote>\(LabPage.escaped(record.claim))</blockquote>\n"
    html += list(findings.outcome, "What came out", "outcome")
    html += list(findings.corrections, "Where the thread was wrong", "corrections")
    html += findings.plots.map { "<figure>\($0.svg)</figure>\n" }.joined()
    html += findings.tables.map(table).joined()
    html += findings.rings.map { "<figure class=\"ring\">\($0.svg)</figure>\n" }.joined()
    return html + "<dl>\(parameters.joined())</dl>\n</section>\n"
  }

  private func list(_ sentences: [String], _ title: String, _ kind: String) -> String {
    guard !sentences.isEmpty else { return "" }
    let items = sentences.map { "<li>\(LabPage.escaped($0))</li>" }.joined()
    return "<div class=\"\(kind)\"><h3>\(title)</h3><ul>\(items)</ul></div>\n"
  }

  private func table(_ table: LabTable) -> String {
    let head = table.columns.map { "<th>\(LabPage.escaped($0))</th>" }.joined()
    let rows = table.rows.map { row in
      "<tr>" + row.map { "<td\($0.isNumber ? " class=\"n\"" : "")>\(LabPage.escaped($0.text))</td>" }.joined()
        + "</tr>\n"
    }
    return
      "<div class=\"table\"><table><caption>\(LabPage.escaped(table.title))</caption><thead><tr>\(head)</tr></thead>"
      + "<tbody>\n\(rows.joined())</tbody></table></div>\n"
  }

  private static func escaped(_ text: String) -> String { SVGDrawing.escaped(text) }

  private static let style = """
    :root { color-scheme: light; --ink: #1f2933; --faint: #52606d; --line: #dfe5ec; --blue: #2f6fde; }
    body { margin: 0; font: 16px/1.55 Inter, "Helvetica Neue", Helvetica, Arial, sans-serif; color: var(--ink); background: #fff; }
    header, main { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
    header { padding-top: 2.5rem; }
    h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
    h2 { font-size: 1.4rem; margin: 3.2rem 0 .6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
    h2 span { display: inline-block; min-width: 1.2em; padding: 0 .35em; margin-right: .3em; text-align: center; color: #fff;
      background: var(--blue); border-radius: .3em; }
    h3 { font-size: .95rem; margin: 0 0 .3rem; }
    .machine { color: var(--faint); font-size: .9rem; }
    nav { display: flex; flex-wrap: wrap; gap: .45rem; margin: 1.2rem 0; }
    nav a { color: var(--ink); text-decoration: none; font-size: .88rem; padding: .2rem .6rem; border: 1px solid var(--line);
      border-radius: 1rem; }
    nav a:hover { border-color: var(--blue); }
    blockquote { margin: 0 0 1.1rem; padding: .1rem 0 .1rem 1rem; border-left: 4px solid var(--blue); font-size: 1.05rem;
      color: var(--faint); }
    .outcome, .corrections { padding: .8rem 1rem; border-radius: .5rem; margin: .8rem 0; background: #eef6f0; }
    .corrections { background: #fdf3ea; }
    ul { margin: 0; padding-left: 1.2rem; }
    li + li { margin-top: .3rem; }
    figure { margin: 1.4rem 0; overflow-x: auto; }
    figure svg { max-width: 100%; height: auto; }
    figure.ring svg { max-width: none; }
    .table { overflow-x: auto; margin: 1.2rem 0; }
    table { border-collapse: collapse; font-size: .88rem; min-width: 60%; }
    caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
    th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: bottom; }
    th { color: var(--faint); font-weight: 600; }
    td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
    dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; font-size: .82rem; color: var(--faint); }
    dt { font-weight: 600; } dd { margin: 0; }

    """
}
