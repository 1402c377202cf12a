//! Charts are well-formed, themed and finite; invalid data make none.

use super::figures::Words;
use super::histogram::bins;
use super::lines::ends;
use super::thin::{MOST, thinned};
use super::ticks::{Outward, ticks};
use super::*;

fn number(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

const WORDS: Words<'_> = Words {
    title: "Title <script>&\"'",
    alt: "Falls from 4 to 2 <script>alert(\"1\")</script>",
    x: "prompt, tokens",
    y: "time, ms <b>",
    number: &number,
};

fn curve(name: &str, points: &[(f64, f64)]) -> Curve {
    (name.into(), points.iter().map(|(x, y)| Point::new(*x, *y)).collect())
}

fn panel(label: &str, groups: Vec<Vec<Option<f64>>>) -> Panel<'static> {
    let groups = groups.into_iter().map(|values| Group { name: "<now>".into(), values }).collect();
    Panel { label: label.into(), number: &number, groups }
}

/// One of each kind.
fn all() -> Vec<Chart<'static>> {
    let falling = || curve("<script>&\"", &[(16.0, 4.0), (64.0, 3.0), (1024.0, 2.0)]);
    let fit = Straight { name: "fit".into(), intercept: 4.0, slope: -0.002 };
    let held = |x: f64| Point { x, y: Some(2.0), interval: Some((1.5, 2.5)) };
    let mark = |name: &str, at| Mark { name: name.into(), at };
    vec![
        ttft_by_prompt(&WORDS, falling(), Some(fit)),
        rate_by_step(&WORDS, vec![falling(), curve("b", &[(16.0, 1.0), (900.0, 1.0)])]),
        throughput(
            &WORDS,
            vec!["a<script>".into(), "b".into()],
            vec![
                panel("prefill", vec![vec![Some(1234.5), None]]),
                panel("decode", vec![vec![Some(30.0), Some(0.0)], vec![None, Some(20.0)]]),
            ],
        ),
        rate_by_depth(&WORDS, vec![("held".into(), [1024.0, 9000.0].map(held).into())]),
        batch_scaling(&WORDS, curve("now", &[(1.0, 30.0), (4.0, 90.0)]), "ideal"),
        distribution(&WORDS, vec![1.0, 2.0, 2.5, 9.0], vec![mark("median 2.25", 2.25)]),
        memory(&WORDS, vec![("many".into(), (0..90).map(f64::from).map(held).collect())]),
        trend(
            &WORDS,
            vec![(
                "t".into(),
                vec![held(1.7e9), Point::missing(1.7e9 + 60.0), held(1.7e9 + 120.0)],
            )],
            ("failed".into(), vec![1.7e9 + 60.0]),
        ),
    ]
}

#[test]
fn every_chart_is_well_formed_and_follows_the_theme() {
    for chart in all() {
        let svg = svg(&chart).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        assert_eq!(root.attribute("aria-label"), Some(WORDS.alt));
        assert_eq!(root.attribute("height"), None);
        let title = root.children().find(|node| node.has_tag_name((SPACE, "title")));
        assert_eq!(title.unwrap().text(), Some(WORDS.title));
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
            let wide = f64::from(head::width(text, of("font-size") as i32));
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
fn what_is_not_a_picture_is_an_error() {
    let line = |points: &[(f64, f64)]| svg(&rate_by_step(&WORDS, vec![curve("a", points)]));
    assert_eq!(line(&[]), Err(NoChart::Empty));
    assert_eq!(line(&[(1.0, 1.0)]), Err(NoChart::OneValue));
    assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), Err(NoChart::OneValue));
    assert_eq!(line(&[(1.0, 1.0), (2.0, f64::NAN)]), Err(NoChart::Unusable));
    assert_eq!(line(&[(1.0, 1.0), (2.0, f64::INFINITY)]), Err(NoChart::Unusable));
    assert_eq!(line(&[(1.0, 1.0), (2.0, 1e300)]), Err(NoChart::Unusable));
    assert!(line(&[(1.0, 0.0), (2.0, 0.0)]).is_ok());
    assert!(line(&[(1.0, 0.0), (2.0, f64::MIN_POSITIVE)]).is_ok());
    let missing = ("a".into(), vec![Point::missing(1.0), Point::missing(2.0)]);
    assert_eq!(svg(&memory(&WORDS, vec![missing])), Err(NoChart::Empty));
    let batch = |points: &[(f64, f64)]| svg(&batch_scaling(&WORDS, curve("a", points), "ideal"));
    assert_eq!(batch(&[(0.0, 1.0), (2.0, 2.0)]), Err(NoChart::TooLow));
    let histogram = |values: &[f64]| svg(&distribution(&WORDS, values.to_vec(), Vec::new()));
    assert_eq!(histogram(&[]), Err(NoChart::Empty));
    assert_eq!(histogram(&[1.0]), Err(NoChart::OneValue));
    assert_eq!(histogram(&[1.0, f64::NAN]), Err(NoChart::Unusable));
    assert!(histogram(&[1.0, 1.0]).is_ok());
    let bars = |names: &[&str], groups| {
        let names = names.iter().map(|name| (*name).into()).collect();
        svg(&throughput(&WORDS, names, vec![panel("p", groups)]))
    };
    assert_eq!(bars(&[], vec![]), Err(NoChart::Empty));
    assert_eq!(bars(&["a"], vec![vec![None]]), Err(NoChart::Empty));
    assert_eq!(bars(&["a"], vec![vec![]]), Err(NoChart::Uneven));
    assert_eq!(bars(&["a"], vec![vec![Some(-1.0)]]), Err(NoChart::TooLow));
    assert!(bars(&["a"], vec![vec![Some(0.0)]]).is_ok());
    assert_eq!(svg(&throughput(&WORDS, vec!["a".into()], vec![])), Err(NoChart::Empty));
}

#[test]
fn what_was_not_measured_is_a_dash_and_no_bar() {
    let both = vec![panel("decode", vec![vec![Some(2.0), None]])];
    let svg = svg(&throughput(&WORDS, vec!["a".into(), "b".into()], both)).unwrap();
    assert_eq!(svg.matches("<rect").count(), 1);
    assert!(svg.contains(">2.00<") && svg.contains(">–<"), "{svg}");
}

#[test]
fn long_curves_are_medians_of_bins() {
    // Four points a bin, of which one is far off.
    let long: Vec<Point> = (0..1600)
        .map(|i| Point::new(f64::from(i), if i % 4 == 3 { 1000.0 } else { f64::from(i % 4) }))
        .collect();
    let thin = thinned(&long);
    assert_eq!(thin.len(), MOST);
    assert!(thin.iter().all(|point| (1.0..=2.0).contains(&point.y.unwrap())));
    assert_eq!(thinned(&long[..MOST]), long[..MOST]);
    let mut unsorted = long[..3].to_vec();
    unsorted.reverse();
    assert_eq!(thinned(&unsorted), long[..3]);
    let svg = svg(&rate_by_step(&WORDS, vec![("a".into(), long)])).unwrap();
    assert!(svg.len() < 10_000, "{} bytes", svg.len());
}

#[test]
fn a_gap_breaks_the_line_and_outlives_thinning() {
    let point = |i: u32| {
        if (400..600).contains(&i) {
            Point::missing(f64::from(i))
        } else {
            Point::new(f64::from(i), 5.0)
        }
    };
    for points in [1000, 2000] {
        let curve = ("a".into(), (0..points).map(point).collect());
        let svg = svg(&trend(&WORDS, vec![curve], ("failed".into(), Vec::new()))).unwrap();
        assert_eq!(svg.matches("stroke=\"var(--c1").count(), 2, "{points}");
    }
}

#[test]
fn the_ideal_needs_one_sequence_alone() {
    let with = batch_scaling(&WORDS, curve("now", &[(1.0, 30.0), (4.0, 90.0)]), "ideal");
    let Data::Lines(lines) = &with.data else { panic!("lines") };
    assert_eq!(lines.series[1].points.last(), Some(&Point::new(4.0, 120.0)));
    let without = batch_scaling(&WORDS, curve("now", &[(2.0, 60.0), (4.0, 90.0)]), "ideal");
    let Data::Lines(lines) = &without.data else { panic!("lines") };
    assert_eq!(lines.series.len(), 1);
}

#[test]
fn a_fit_runs_from_the_first_length_to_the_last() {
    let fit = Straight { name: "fit".into(), intercept: 5.0, slope: 0.5 };
    let chart = ttft_by_prompt(&WORDS, curve("m", &[(64.0, 40.0), (16.0, 12.0)]), Some(fit));
    let Data::Lines(lines) = &chart.data else { panic!("lines") };
    assert_eq!(lines.series[1].points, [Point::new(16.0, 13.0), Point::new(64.0, 37.0)]);
}

#[test]
fn a_depth_of_zero_is_on_no_axis_of_doublings() {
    let scale = |points: &[(f64, f64)]| match rate_by_depth(&WORDS, vec![curve("a", points)]).data {
        Data::Lines(lines) => lines.x.scale,
        _ => panic!("lines"),
    };
    assert_eq!(scale(&[(0.0, 3.0), (4096.0, 2.0)]), Scale::Whole);
    assert_eq!(scale(&[(512.0, 3.0), (4096.0, 2.0)]), Scale::Doubling);
    assert_eq!(scale(&[(512.0, 3.0), (1024.0, 2.0)]), Scale::Whole);
}

#[test]
fn axes_have_round_numbers() {
    for (scale, range, outward, labels) in [
        (Scale::Zero, (3.0, 47.0), Outward::ToNumber, "0 10 20 30 40 50"),
        (Scale::Zero, (0.0, 0.0), Outward::ToNumber, "0.0 0.2 0.4 0.6 0.8 1.0"),
        (Scale::Zero, (0.0, 0.003), Outward::ToNumber, "0.000 0.001 0.002 0.003"),
        (Scale::Around, (100.0, 100.0), Outward::ToNumber, "99.0 99.5 100.0 100.5 101.0"),
        (Scale::Whole, (1.0, 3.0), Outward::Little, "1 2 3"),
        (Scale::Doubling, (1.0, 16.0), Outward::Little, "1 2 4 8 16"),
        (Scale::Doubling, (16.0, 131_072.0), Outward::Little, "16 128 1024 8192 65536"),
        (Scale::Time, (0.0, 6900.0), Outward::Little, "00:00 00:30 01:00 01:30"),
        (Scale::Time, (1.7e9, 1.7e9 + 3e5), Outward::Little, "11-15 11-16 11-17 11-18"),
    ] {
        let axis = Axis { label: String::new(), scale, number: &number };
        let ticks = ticks(&axis, range, 6, outward, |_| true);
        assert_eq!(ticks.labels.join(" "), labels, "{scale:?} {range:?}");
    }
}

#[test]
fn numbers_that_would_touch_are_fewer() {
    let axis = Axis { label: String::new(), scale: Scale::Whole, number: &number };
    let fits = |most: usize| {
        ticks(&axis, (0.0, 100.0), 8, Outward::Little, |ticks| ticks.at.len() <= most).labels
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
    let svg = svg(&distribution(&WORDS, vec![1.0, 2.0], Vec::new())).unwrap();
    assert!(
        svg.contains("text-anchor=\"end\" font-size=\"13\" fill=\"var(--soft, #59636e)\">1<"),
        "{svg}"
    );
    assert!(!svg.contains(">0.5<"), "{svg}");
}

#[test]
fn ends_are_those_of_the_values() {
    assert_eq!(ends(Scale::Zero, &[3.0, 1.0, 2.0]), Ok((1.0, 3.0)));
    assert_eq!(ends(Scale::Doubling, &[0.0]), Err(NoChart::TooLow));
    // Milliseconds since 1970 are no seconds.
    assert_eq!(ends(Scale::Time, &[1.7e12]), Err(NoChart::Unusable));
}

#[test]
fn long_names_keep_both_ends() {
    assert_eq!(head::shortened("short", 100), "short");
    let name = format!("start-{}-end", "x".repeat(5000));
    let short = head::shortened(&name, 120);
    assert!(
        short.starts_with("start-") && short.ends_with("-end") && short.contains('…'),
        "{short}"
    );
    assert!(head::width(&short, head::TEXT) <= 120);
}

#[test]
fn text_without_a_page_has_plain_colours() {
    let svg = "<text fill=\"var(--ink, #1b1f24)\">var(--ink, x)</text>";
    assert_eq!(png::plain(svg), "<text fill=\"#1b1f24\">var(--ink, x)</text>");
    for chart in all() {
        assert!(!png::plain(&super::svg(&chart).unwrap()).contains("=\"var("));
    }
}

#[cfg(feature = "png")]
#[test]
fn a_png_is_as_wide_as_asked() {
    let svg = svg(&all()[0]).unwrap();
    match png(&svg, 880) {
        Ok(bytes) => {
            assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
            assert_eq!(&bytes[16..20], &880u32.to_be_bytes());
        }
        // A system without fonts says so.
        Err(err) => assert!(err.to_string().contains("without fonts"), "{err}"),
    }
    assert!(png(&svg, 0).is_err());
    assert!(png("no svg", 880).is_err());
}

#[cfg(not(feature = "png"))]
#[test]
fn a_build_without_png_names_the_feature() {
    assert!(png("", 880).unwrap_err().to_string().contains("--features png"));
}
