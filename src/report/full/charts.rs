//! The charts of a record. A chart whose scenarios were not measured is omitted; invalid scenarios
//! are not drawn.

use crate::analysis::{CaseState, Category, Consistency, ContextRow, GridRow, Spread, StressRow};
use crate::record::StressOutcome;
use crate::report::chart::{
    Axis, Bars, Chart, Data, Group, Histogram, Lines, Mark, Number, Panel, Point, Scale, Series,
    SeriesStyle, svg,
};
use crate::report::document::{Block, RenderedChart, Section, Text};
use crate::report::full::render_context::{MIB, MS, RenderContext};

pub(super) fn charts(ctx: &RenderContext) -> Option<Section> {
    let mut section = Section::new("charts", ctx.words.charts.heading);
    let lang = ctx.lang;
    let number = move |value: f64, decimals: usize| lang.fixed(value, decimals);
    let draw = ReportCharts { ctx, number: &number };
    let charts = [
        draw.first_token(),
        draw.steps(),
        draw.rates(),
        draw.batches(),
        draw.times(),
        draw.depths(),
        draw.repeats(),
        draw.growth(),
    ];
    for chart in charts.into_iter().flatten() {
        section.push(Block::Chart { chart });
    }
    (!section.blocks.is_empty()).then_some(section)
}

struct ReportCharts<'a> {
    ctx: &'a RenderContext<'a>,
    number: Number<'a>,
}

/// The median of a valid scenario.
fn valid_median(state: &CaseState, spread: Option<Spread>) -> Option<f64> {
    spread.filter(|_| state.is_valid()).map(|spread| spread.median)
}

impl<'a> ReportCharts<'a> {
    fn axis(&self, label: &str, scale: Scale) -> Axis<'a> {
        Axis { label: label.into(), scale, number: self.number }
    }

    /// A rendered chart, if its data can be drawn.
    fn chart(
        &self,
        name: &'static str,
        title: &str,
        about: Text,
        data: Data<'_>,
    ) -> Option<RenderedChart> {
        let chart = Chart { title: title.into(), alt: about.plain_text(), data };
        svg(&chart).ok().map(|svg| RenderedChart { name, svg, about })
    }

    fn first_token(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words.charts;
        let grid = self.ctx.analysis.grid.as_ref()?;
        let point = |row: &GridRow| {
            let seconds = valid_median(&row.state, row.ttft_s)?;
            Some(Point::new(row.prompt_tokens? as f64, seconds * MS))
        };
        let mut points: Vec<Point> = grid.rows.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        let (first, last) = (points.first()?.x, points.last()?.x);
        let mut series =
            vec![Series { name: words.measured.into(), points, style: SeriesStyle::Points }];
        if let Some(fit) = grid.ttft_growth {
            let at = |x: f64| Point::new(x, fit.line.at(x) * MS);
            // A time below zero is impossible: the line starts where it crosses zero.
            let zero = -fit.line.intercept / fit.line.slope;
            let from = if fit.line.at(first) < 0.0 { zero } else { first };
            let points = vec![at(from), at(last)];
            series.push(Series { name: words.fit.into(), points, style: SeriesStyle::Reference });
        }
        let data = Data::Lines(Lines {
            x: self.axis(words.prompt_axis, Scale::Zero),
            y: self.axis("TTFT (ms)", Scale::Zero),
            series,
        });
        self.chart("ttft", words.ttft, words.ttft_alt.into(), data)
    }

    fn steps(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words.charts;
        let steps = self.ctx.analysis.grid.as_ref()?.steps.as_ref()?;
        let points = steps.points.iter().map(|one| Point::new(one.step as f64, one.tok_s));
        let series = vec![Series {
            name: steps.id.clone(),
            points: points.collect(),
            style: SeriesStyle::Line,
        }];
        let data = Data::Lines(Lines {
            x: self.axis(words.step_axis, Scale::Whole),
            y: self.axis(words.rate_axis, Scale::Zero),
            series,
        });
        let about = Text::from_template(words.steps_alt, &[("scenario", &steps.id)]);
        self.chart("steps", words.steps, about, data)
    }

    fn rates(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words;
        let rows = &self.ctx.analysis.grid.as_ref()?.rows;
        let name = |row: &GridRow| row.id.rsplit('/').next().unwrap_or(&row.id).to_owned();
        let panel = |label: &str, of: fn(&GridRow) -> Option<Spread>| Panel {
            label: label.into(),
            number: self.number,
            groups: vec![Group {
                name: label.into(),
                values: rows.iter().map(|row| valid_median(&row.state, of(row))).collect(),
            }],
        };
        let panels = vec![
            panel(words.context.prefill, |row| row.prefill_tok_s),
            panel(words.context.decode, |row| row.decode_tok_s),
        ];
        let data = Data::Bars(Bars { categories: rows.iter().map(name).collect(), panels });
        self.chart("rates", words.charts.rates, words.charts.rates_alt.into(), data)
    }

    fn batches(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words.charts;
        let categories = &self.ctx.analysis.categories;
        // A category of a single batch size is a point, not a line.
        let measured = |category: &&Category| {
            let rows = category.batches.iter();
            rows.filter(|row| valid_median(&row.state, row.aggregate_tok_s).is_some()).count() > 1
        };
        let series = categories.iter().filter(measured).map(|category| Series {
            name: category.name.clone(),
            points: category
                .batches
                .iter()
                .map(|row| Point {
                    x: row.batch as f64,
                    y: valid_median(&row.state, row.aggregate_tok_s),
                    interval: None,
                })
                .collect(),
            style: SeriesStyle::Line,
        });
        let data = Data::Lines(Lines {
            x: self.axis(words.batch_axis, Scale::Doubling),
            y: self.axis(words.rate_axis, Scale::Zero),
            series: series.collect(),
        });
        self.chart("batches", words.batches, words.batches_alt.into(), data)
    }

    fn times(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words;
        let categories = &self.ctx.analysis.categories;
        let single = categories.iter().filter_map(|category| {
            let row = category.batches.iter().find(|row| row.batch == 1)?;
            Some((category.name.clone(), valid_median(&row.state, row.e2e_s).map(|e2e| e2e * MS)))
        });
        let (names, values): (Vec<String>, Vec<Option<f64>>) = single.unzip();
        let label = words.categories.whole_answer;
        let groups = vec![Group { name: label.into(), values }];
        let panels = vec![Panel { label: label.into(), number: self.number, groups }];
        let data = Data::Bars(Bars { categories: names, panels });
        self.chart("times", words.charts.times, words.charts.times_alt.into(), data)
    }

    fn depths(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words.charts;
        let rows = &self.ctx.analysis.context.as_ref()?.rows;
        let series = [(false, words.plain), (true, words.yarn)].map(|(extended, name)| {
            let rows = rows.iter().filter(|row| row.extended == extended);
            let point = |row: &ContextRow| Point {
                x: row.depth as f64,
                y: valid_median(&row.state, row.decode_tok_s),
                interval: None,
            };
            Series {
                name: name.into(),
                points: rows.map(point).collect(),
                style: SeriesStyle::Line,
            }
        });
        let series = series.into_iter().filter(|one| one.points.iter().any(|p| p.y.is_some()));
        let data = Data::Lines(Lines {
            x: self.axis(words.depth_axis, Scale::Zero),
            y: self.axis(words.rate_axis, Scale::Zero),
            series: series.collect(),
        });
        self.chart("context", words.depths, words.depths_alt.into(), data)
    }

    fn repeats(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words;
        let valid_median = |one: &&Consistency| one.state.is_valid() && !one.series_s.is_empty();
        let one = self.ctx.analysis.consistency.iter().find(valid_median)?;
        let values: Vec<f64> = one.series_s.iter().flatten().map(|seconds| seconds * MS).collect();
        let of = one.e2e_s?;
        let mut marks = vec![Mark { name: "p50".into(), at: of.median * MS }];
        marks.extend(of.p95.map(|p95| Mark { name: "p95".into(), at: p95 * MS }));
        let data = Data::Histogram(Histogram {
            x: self.axis(words.latency.e2e, Scale::Around),
            y: self.axis(words.charts.count_axis, Scale::Whole),
            values,
            marks,
        });
        let about = Text::from_template(words.charts.repeats_alt, &[("scenario", &one.id)]);
        self.chart("repeats", words.charts.repeats, about, data)
    }

    fn growth(&self) -> Option<RenderedChart> {
        let words = &self.ctx.words.charts;
        let stress = &self.ctx.analysis.stress;
        let mut failed = Vec::new();
        let mut series: Vec<Series> = Vec::new();
        for row in stress.iter().filter(|row| row.state.is_valid()) {
            let points = memory(row, &mut failed);
            if points.iter().any(|point| point.y.is_some()) {
                series.push(Series { name: row.name.clone(), points, style: SeriesStyle::Line });
            }
        }
        if !failed.is_empty() {
            failed.sort_by(|a, b| a.x.total_cmp(&b.x));
            let name = words.unanswered.into();
            series.push(Series { name, points: failed, style: SeriesStyle::Failures });
        }
        let data = Data::Lines(Lines {
            x: self.axis(words.request_axis, Scale::Whole),
            y: self.axis(words.memory_axis, Scale::Around),
            series,
        });
        self.chart("memory", words.growth, words.growth_alt.into(), data)
    }
}

/// Memory after each request of the first process; unanswered requests go to `failed`.
fn memory(row: &StressRow, failed: &mut Vec<Point>) -> Vec<Point> {
    let requests = row.requests.first().map_or([].as_slice(), Vec::as_slice);
    let place = |(at, request): (usize, &crate::record::StressRequest)| {
        let x = (at + 1) as f64;
        if request.outcome != StressOutcome::Answered {
            failed.push(Point::new(x, 0.0));
        }
        let y = request.rss_bytes.map(|bytes| bytes as f64 * MIB);
        Point { x, y, interval: None }
    };
    requests.iter().enumerate().map(place).collect()
}
