//! Residual against overhead, as an SVG.

use super::plan::Mechanism;
use super::report::CaseReport;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const MARGIN: [f64; 4] = [40.0, 200.0, 60.0, 80.0];
/// Decades of overhead, and of residual, that are shown.
const ACROSS: [f64; 2] = [-2.1, 0.5];
const DOWN: [f64; 2] = [-7.0, -1.0];

/// Draws the cases: a mark for each policy, a tick on the axis for each floor, a line from ours to the others of the same case. A
/// case without a miss stands, hollow, at the residual that its count still allows.
pub(super) fn draw<'a>(title: &str, cases: impl Iterator<Item = &'a CaseReport> + Clone) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"22\" font-size=\"15\">{}</text>\n",
        MARGIN[3],
        escape(title)
    );
    axes(&mut svg);
    for case in cases.clone().filter(|case| case.mechanism == Mechanism::Link) {
        if let Some(floor) = case.floor.filter(|floor| *floor > 0.0) {
            let x = across(floor);
            let bottom = HEIGHT - MARGIN[2];
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"2\"/>",
                bottom - 10.0,
                colour(None)
            );
        }
        for other in cases.clone().filter(|other| other.mechanism != Mechanism::Link && other.name == case.name) {
            let ([x1, y1], [x2, y2]) = (place(case), place(other));
            let _ =
                writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>");
        }
    }
    for case in cases {
        mark(&mut svg, case);
    }
    legend(&mut svg);
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String) {
    let (left, right) = (MARGIN[3], WIDTH - MARGIN[1]);
    let (top, bottom) = (MARGIN[0], HEIGHT - MARGIN[2]);
    for overhead in [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0] {
        let x = across(overhead);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{} %</text>",
            bottom + 18.0,
            overhead * 100.0
        );
    }
    for decade in DOWN[0] as i32..=DOWN[1] as i32 {
        let y = down(10f64.powi(decade));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">1e{decade}</text>",
            left - 8.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">overhead: repair bytes over media bytes</text>\
         <text x=\"20\" y=\"{}\" transform=\"rotate(-90 20 {})\" text-anchor=\"middle\">residual: share lost or late</text>",
        (left + right) / 2.0,
        HEIGHT - 16.0,
        (top + bottom) / 2.0,
        (top + bottom) / 2.0
    );
}

fn mark(svg: &mut String, case: &CaseReport) {
    let [x, y] = place(case);
    let colour = colour(Some(case.mechanism));
    let fill = if case.lost + case.late == 0 { "white" } else { colour };
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"{fill}\">\
         <title>{}: {} of {} missed, overhead {:.2} %</title></circle>",
        escape(&case.name),
        case.lost + case.late,
        case.packets,
        100.0 * case.worst_overhead()
    );
}

fn legend(svg: &mut String) {
    let rows = [
        ("Anabranch", colour(Some(Mechanism::Link))),
        ("plain ARQ", colour(Some(Mechanism::PlainArq))),
        ("NM-strikes 3 × 3", colour(Some(Mechanism::NmStrikes))),
        ("floor p / (1 − p)", colour(None)),
    ];
    let x = WIDTH - MARGIN[1] + 24.0;
    for (row, (text, colour)) in rows.iter().enumerate() {
        let y = MARGIN[0] + 20.0 + 22.0 * row as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"4.5\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{text}</text>",
            x + 12.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\">hollow: no miss seen,</text><text x=\"{x}\" y=\"{}\">drawn at 3 / packets</text>",
        MARGIN[0] + 118.0,
        MARGIN[0] + 134.0
    );
}

fn place(case: &CaseReport) -> [f64; 2] {
    let residual = if case.lost + case.late == 0 { case.bound() } else { case.residual };
    [across(case.worst_overhead()), down(residual)]
}

fn across(overhead: f64) -> f64 {
    let share = (overhead.max(1e-9).log10() - ACROSS[0]) / (ACROSS[1] - ACROSS[0]);
    MARGIN[3] + share.clamp(0.0, 1.0) * (WIDTH - MARGIN[1] - MARGIN[3])
}

fn down(residual: f64) -> f64 {
    let share = (residual.max(1e-12).log10() - DOWN[0]) / (DOWN[1] - DOWN[0]);
    HEIGHT - MARGIN[2] - share.clamp(0.0, 1.0) * (HEIGHT - MARGIN[0] - MARGIN[2])
}

fn colour(mechanism: Option<Mechanism>) -> &'static str {
    match mechanism {
        Some(Mechanism::Link) => "#1f77b4",
        Some(Mechanism::PlainArq) => "#2ca02c",
        Some(Mechanism::NmStrikes) => "#d62728",
        None => "#000000",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
