//! The growth of a cost as an SVG: one small chart for each thing that grows.

use super::{Axis, Point};
use std::fmt::Write;

const CHART: [f64; 2] = [300.0, 220.0];
const MARGIN: [f64; 4] = [34.0, 18.0, 30.0, 42.0];
const ACROSS: usize = 3;

/// Draws CPU time per packet against each size.
pub(super) fn draw(axes: &[Axis]) -> String {
    let rows = axes.len().div_ceil(ACROSS);
    let (width, height) = (CHART[0] * ACROSS as f64, CHART[1] * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (nth, axis) in axes.iter().enumerate() {
        let origin = [CHART[0] * (nth % ACROSS) as f64, CHART[1] * (nth / ACROSS) as f64];
        chart(&mut svg, origin, axis);
    }
    svg.push_str("</svg>\n");
    svg
}

fn chart(svg: &mut String, [x0, y0]: [f64; 2], axis: &Axis) {
    let [top, right, bottom, left] = MARGIN;
    let (from, to) = (x0 + left, x0 + CHART[0] - right);
    let (above, below) = (y0 + top, y0 + CHART[1] - bottom);
    let most = axis.points.iter().map(|point| point.cpu_us).fold(1.0, f64::max).ceil();
    let place = |nth: usize, point: &Point| {
        let share = nth as f64 / (axis.points.len().max(2) - 1) as f64;
        [from + share * (to - from), below - point.cpu_us / most * (below - above)]
    };
    let _ = writeln!(
        svg,
        "<text x=\"{from}\" y=\"{}\" font-weight=\"bold\">{}</text><text x=\"{from}\" y=\"{}\" fill=\"#666\" font-size=\"9\">{}</text>",
        y0 + 14.0,
        axis.what,
        y0 + 26.0,
        axis.unit
    );
    for share in [0.0, 0.5, 1.0] {
        let y = below - share * (below - above);
        let _ = writeln!(
            svg,
            "<line x1=\"{from}\" x2=\"{to}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} µs</text>",
            from - 4.0,
            y + 4.0,
            most * share
        );
    }
    let mut way = String::new();
    for (nth, point) in axis.points.iter().enumerate() {
        let [x, y] = place(nth, point);
        let _ = write!(way, "{x:.1},{y:.1} ");
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#1f77b4\"><title>{}: {:.2} µs a packet</title></circle>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            point.at,
            point.cpu_us,
            below + 16.0,
            point.at
        );
    }
    let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f77b4\"/>", way.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_within_its_chart() {
        let point = |at, cpu_us| Point { at, cpu_us, core: 0.0, delivered: 1.0, memory: 0 };
        let axis = |what| Axis { what, unit: "each", points: vec![point(1.0, 2.0), point(2.0, 7.5), point(4.0, 0.5)] };
        let svg = draw(&[axis("sinks"), axis("streams"), axis("relays"), axis("loss")]);
        assert_eq!(svg.matches("<circle").count(), 12);
        assert!(svg.contains("viewBox=\"0 0 900 440\"") && svg.contains(">8 µs<"), "{svg}");
        for circle in svg.split("cy=\"").skip(1) {
            let y: f64 = circle.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..440.0).contains(&y));
        }
    }
}
