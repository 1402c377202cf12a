//! Units of a chart's view box, and the integer pixels of plotters.

/// Plotters uses integer pixels: this many make one unit of the view box.
pub(super) const UNIT: i32 = 10;

/// Width of every chart in units. Text of 13 units is legible on a phone, where a unit is 0.8
/// pixels.
pub(super) const WIDTH: i32 = 440;

/// Units as plotters' pixels.
pub(super) fn px(x: i32, y: i32) -> (i32, i32) {
    (x * UNIT, y * UNIT)
}
