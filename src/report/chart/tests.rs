//! Charts are well-formed, themed and finite; invalid data make none.

use super::histogram::bins;
use super::plot::value_range;
use super::ticks::{AxisEnd, ticks};
use super::*;

const TITLE: &str = "Title <script>&\"'";
const ALT: &str = "Falls from 4 to 2 <script>alert(\"1\")</script>";

fn number(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

fn chart(data: Data) -> Chart<'static> {
    Chart { title: TITLE.into(), alt: ALT.into(), number: &number, data }
}

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

fn series(name: &str, points: Vec<Point>) -> Series {
    Series { name: name.into(), points, style: SeriesStyle::Line }
}

fn curve(name: &str, points: &[(f64, f64)]) -> Series {
    series(name, points.iter().map(|(x, y)| (*x, Some(*y))).collect())
}

fn lines(x: Scale, y: Scale, series: Vec<Series>) -> Chart<'static> {
    let (x, y) = (axis("prompt, tokens", x), axis("time, ms <b>", y));
    chart(Data::Lines(Lines { x, y, series }))
}

fn panel(label: &str, values: Vec<Option<f64>>) -> Panel {
    Panel { label: label.into(), values }
}

fn bars(names: &[&str], panels: Vec<Panel>) -> Chart<'static> {
    let categories = names.iter().map(|name| (*name).into()).collect();
    chart(Data::Bars(Bars { categories, panels }))
}

fn histogram(values: &[f64], marks: Vec<(String, f64)>) -> Chart<'static> {
    let (x, y) = ("time, ms <b>".into(), "cycles".into());
    chart(Data::Histogram(Histogram { x, y, values: values.to_vec(), marks }))
}

/// One of each kind.
fn all() -> Vec<Chart<'static>> {
    let falling = || curve("<script>&\"", &[(16.0, 4.0), (64.0, 3.0), (1024.0, 2.0)]);
    let styled = |style, series| Series { style, ..series };
    let fit = styled(SeriesStyle::Reference, curve("fit", &[(16.0, 4.0), (1024.0, 2.0)]));
    let mark = ("median 2.25".into(), 2.25);
    let panels = vec![
        panel("prefill", vec![Some(1234.5), None]),
        panel("decode", vec![Some(30.0), Some(0.0)]),
    ];
    let few = vec![(1024.0, Some(2.0)), (9000.0, Some(2.5))];
    let many = (0..90).map(|x| (f64::from(x), Some(2.0))).collect();
    let gap = (1.7e9 + 60.0, None);
    let times = vec![(1.7e9, Some(2.0)), gap, (1.7e9 + 120.0, Some(2.0))];
    let failed = styled(SeriesStyle::Failures, series("failed", vec![gap]));
    let markers = (0..6).map(|_| falling()).collect();
    vec![
        lines(Scale::Whole, Scale::Zero, vec![styled(SeriesStyle::Points, falling()), fit]),
        lines(Scale::Whole, Scale::Zero, markers),
        bars(&["a<script>", "b"], panels),
        lines(Scale::Whole, Scale::Zero, vec![series("few", few)]),
        histogram(&[1.0, 2.0, 2.5, 9.0], vec![mark]),
        lines(Scale::Whole, Scale::Around, vec![series("many", many)]),
        lines(Scale::Time, Scale::Zero, vec![series("t", times), failed]),
    ]
}

#[test]
fn every_chart_is_well_formed_and_follows_the_theme() {
    for chart in all() {
        let svg = svg(&chart).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        assert_eq!(root.attribute("aria-label"), Some(ALT));
        assert_eq!(root.attribute("height"), None);
        let title = root.children().find(|node| node.has_tag_name((SPACE, "title")));
        assert_eq!(title.unwrap().text(), Some(TITLE));
        for node in root.descendants().filter(roxmltree::Node::is_element) {
            let name = node.tag_name().name();
            let known = ["svg", "title", "text", "rect", "polyline", "polygon", "circle"];
            assert!(known.contains(&name), "{name}");
            for attribute in node.attributes() {
                let (name, value) = (attribute.name(), attribute.value());
                assert!(!["id", "style", "href", "onload"].contains(&name), "{name}");
                if ["fill", "stroke"].contains(&name) {
                    assert!(value == "none" || value.starts_with("var(--"), "{value}");
                }
                for number in ["x", "y", "width", "cx", "cy", "r", "points"] {
                    assert!(name != number || drawable(value), "{name}: {value}");
                }
            }
        }
        assert!(!svg.contains("<script") && !svg.contains("<b>"), "{svg}");
    }
}

const SPACE: &str = "http://www.w3.org/2000/svg";

fn drawable(value: &str) -> bool {
    let mut numbers = value.split([' ', ',']);
    value == "100%" || numbers.all(|n| n.parse::<f64>().is_ok_and(|n| (-0.1..=2000.0).contains(&n)))
}

#[test]
fn every_text_lies_inside_of_the_picture() {
    for chart in all() {
        let svg = svg(&chart).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let view: Vec<&str> =
            document.root_element().attribute("viewBox").unwrap().split(' ').collect();
        let size: Vec<f64> = view[2..].iter().map(|n| n.parse().unwrap()).collect();
        for node in document.descendants().filter(|node| node.has_tag_name((SPACE, "text"))) {
            let of = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
            let text = node.text().unwrap();
            let wide = header::width(text) * of("font-size") / 13.0;
            let left = match node.attribute("text-anchor") {
                None => of("x"),
                Some("middle") => of("x") - wide / 2.0,
                _ => of("x") - wide,
            };
            assert!(left >= 0.0 && left + wide <= size[0], "{text} from {left}, {wide} wide");
            assert!(of("y") > 10.0 && of("y") < size[1], "{text}");
        }
    }
}

#[test]
fn data_that_cannot_be_drawn_are_an_error() {
    let line =
        |points: &[(f64, f64)]| svg(&lines(Scale::Whole, Scale::Zero, vec![curve("a", points)]));
    assert_eq!(line(&[]), Err(ChartError::Empty));
    assert_eq!(line(&[(1.0, 1.0)]), Err(ChartError::OneValue));
    assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), Err(ChartError::OneValue));
    assert_eq!(line(&[(1.0, 1.0), (2.0, f64::NAN)]), Err(ChartError::Unusable));
    assert_eq!(line(&[(1.0, 1.0), (2.0, f64::INFINITY)]), Err(ChartError::Unusable));
    assert_eq!(line(&[(1.0, 1.0), (2.0, 1e300)]), Err(ChartError::Unusable));
    assert!(line(&[(1.0, 0.0), (2.0, 0.0)]).is_ok());
    assert!(line(&[(1.0, 0.0), (2.0, f64::MIN_POSITIVE)]).is_ok());
    let missing = series("a", vec![(1.0, None), (2.0, None)]);
    let missing = lines(Scale::Whole, Scale::Around, vec![missing]);
    assert_eq!(svg(&missing), Err(ChartError::Empty));
    let histogram = |values: &[f64]| svg(&histogram(values, Vec::new()));
    assert_eq!(histogram(&[]), Err(ChartError::Empty));
    assert_eq!(histogram(&[1.0]), Err(ChartError::OneValue));
    assert_eq!(histogram(&[1.0, f64::NAN]), Err(ChartError::Unusable));
    assert!(histogram(&[1.0, 1.0]).is_ok());
    assert_eq!(svg(&bars(&["a"], vec![])), Err(ChartError::Empty));
    let bars = |names: &[&str], values| svg(&bars(names, vec![panel("p", values)]));
    assert_eq!(bars(&[], vec![]), Err(ChartError::Empty));
    assert_eq!(bars(&["a"], vec![None]), Err(ChartError::Empty));
    assert_eq!(bars(&["a"], vec![Some(-1.0)]), Err(ChartError::TooLow));
    assert!(bars(&["a"], vec![Some(0.0)]).is_ok());
}

#[test]
fn an_unmeasured_value_is_a_dash_without_a_bar() {
    let both = vec![panel("decode", vec![Some(2.0), None])];
    let svg = svg(&bars(&["a", "b"], both)).unwrap();
    assert_eq!(svg.matches("<rect").count(), 1);
    assert!(svg.contains(">2.00<") && svg.contains(">–<"), "{svg}");
}

#[test]
fn a_gap_breaks_the_line() {
    let point = |i: u32| (f64::from(i), (!(400..600).contains(&i)).then_some(5.0));
    let curve = series("a", (0..1000).map(point).collect());
    let svg = svg(&lines(Scale::Time, Scale::Zero, vec![curve])).unwrap();
    assert_eq!(svg.matches("stroke=\"var(--c1").count(), 2);
}

#[test]
fn axes_have_round_numbers() {
    for (scale, range, end, labels) in [
        (Scale::Zero, (3.0, 47.0), AxisEnd::AtTick, "0 10 20 30 40 50"),
        (Scale::Zero, (0.0, 0.0), AxisEnd::AtTick, "0.0 0.2 0.4 0.6 0.8 1.0"),
        (Scale::Zero, (0.0, 0.003), AxisEnd::AtTick, "0.000 0.001 0.002 0.003"),
        (Scale::Around, (100.0, 100.0), AxisEnd::AtTick, "99.0 99.5 100.0 100.5 101.0"),
        (Scale::Whole, (1.0, 3.0), AxisEnd::Padded, "1 2 3"),
        (Scale::Time, (0.0, 6900.0), AxisEnd::Padded, "00:00 00:30 01:00 01:30"),
        (Scale::Time, (1.7e9, 1.7e9 + 3e5), AxisEnd::Padded, "11-15 11-16 11-17 11-18"),
    ] {
        let ticks = ticks(scale, range, 6, end, &number, |_| true);
        assert_eq!(ticks.labels.join(" "), labels, "{scale:?} {range:?}");
    }
}

#[test]
fn labels_that_would_touch_are_dropped() {
    let fits = |most: usize| {
        let few = |ticks: &ticks::Ticks| ticks.at.len() <= most;
        ticks(Scale::Whole, (0.0, 100.0), 8, AxisEnd::Padded, &number, few).labels
    };
    assert_eq!(fits(6).join(" "), "0 20 40 60 80 100");
    assert_eq!(fits(3).join(" "), "0 50 100");
    assert_eq!(fits(0).join(" "), "0");
}

#[test]
fn every_value_is_in_one_bin() {
    let counts = |values: &[f64]| bins(values).iter().map(|bin| bin.count).collect::<Vec<_>>();
    assert_eq!(counts(&[1.0, 2.0, 3.0, 4.0]), [1, 1, 2]);
    assert_eq!(counts(&[5.0, 5.0, 5.0]), [3]);
    let mut far: Vec<f64> = (0..1000).map(|i| f64::from(i % 10)).collect();
    far.push(1e9);
    let counts = counts(&far);
    assert_eq!((counts.len(), counts[0], counts[39]), (40, 1000, 1));
}

#[test]
fn counts_have_whole_numbers() {
    let svg = svg(&histogram(&[1.0, 2.0], Vec::new())).unwrap();
    assert!(
        svg.contains("text-anchor=\"end\" font-size=\"13\" fill=\"var(--soft, #59636e)\">1<"),
        "{svg}"
    );
    assert!(!svg.contains(">0.5<"), "{svg}");
}

#[test]
fn the_value_range_spans_the_values() {
    assert_eq!(value_range(Scale::Zero, &[3.0, 1.0, 2.0]), Ok((1.0, 3.0)));
    // Milliseconds since 1970 are no seconds.
    assert_eq!(value_range(Scale::Time, &[1.7e12]), Err(ChartError::Unusable));
}

#[test]
fn long_names_keep_both_ends() {
    assert_eq!(header::shorten("short", 100.0), "short");
    let name = format!("start-{}-end", "x".repeat(5000));
    let short = header::shorten(&name, 120.0);
    assert!(
        short.starts_with("start-") && short.ends_with("-end") && short.contains('…'),
        "{short}"
    );
    assert!(header::width(&short) <= 120.0);
}
