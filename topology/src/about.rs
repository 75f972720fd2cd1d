//! What a relay says of itself for people to see. No route depends on it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// For people: where a relay is, and what goes over its links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Where it stands, where its operator says so.
    pub place: Option<Place>,
    /// What goes over its links, in the order in which it advertises them.
    pub flows: Vec<Flow>,
}

/// A place on Earth, to about ten metres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(i32, i32)", into = "(i32, i32)")]
pub struct Place {
    /// Ten-thousandths of a degree, north positive.
    latitude: i32,
    /// Ten-thousandths of a degree, east positive.
    longitude: i32,
}

/// Why two numbers are no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// What goes over a link between two relays lately, as one of them sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Rate of media that it sends, in kilobits per second.
    pub rate_kbps: u32,
    /// Repair bytes that it sends, in thousandths of the media bytes.
    pub overhead_permille: u16,
    /// Of the media packets that the other end sends: share that repair brought, in parts per million.
    pub saved_ppm: u32,
    /// Of these: share that stayed lost, in parts per million.
    pub left_ppm: u32,
}

const SCALE: f64 = 10_000.0;

impl Place {
    /// A place by degrees, north and east positive.
    ///
    /// # Errors
    /// [`NoPlace`] where the latitude is not from -90 to 90, or the longitude not from -180 to 180.
    pub fn degrees(latitude: f64, longitude: f64) -> Result<Place, NoPlace> {
        let within = |degrees: f64, most: f64| degrees >= -most && degrees <= most;
        if !within(latitude, 90.0) || !within(longitude, 180.0) {
            return Err(NoPlace);
        }
        let scaled = |degrees: f64| (degrees * SCALE).round() as i32;
        Ok(Place { latitude: scaled(latitude), longitude: scaled(longitude) })
    }

    /// Degrees, north positive.
    pub fn latitude(self) -> f64 {
        f64::from(self.latitude) / SCALE
    }

    /// Degrees, east positive.
    pub fn longitude(self) -> f64 {
        f64::from(self.longitude) / SCALE
    }
}

impl TryFrom<(i32, i32)> for Place {
    type Error = NoPlace;

    fn try_from((latitude, longitude): (i32, i32)) -> Result<Place, NoPlace> {
        Place::degrees(f64::from(latitude) / SCALE, f64::from(longitude) / SCALE)
    }
}

impl From<Place> for (i32, i32) {
    fn from(place: Place) -> (i32, i32) {
        (place.latitude, place.longitude)
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a latitude from -90 to 90 and a longitude from -180 to 180 degrees")
    }
}

impl std::error::Error for NoPlace {}

impl Flow {
    /// Whether it is so far from what was `told` that people should see it.
    pub fn moved(&self, told: &Flow) -> bool {
        let rate = self.rate_kbps.abs_diff(told.rate_kbps);
        let lost = |ppm: u32| (ppm > 0).then(|| ppm.ilog10());
        (rate > 64 && rate > told.rate_kbps / 4)
            || self.overhead_permille.abs_diff(told.overhead_permille) > 20
            || self.saved_ppm.abs_diff(told.saved_ppm) > 20_000
            || lost(self.left_ppm) != lost(told.left_ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_on_earth() {
        let london = Place::degrees(51.5074, -0.1278).expect("it is");
        assert_eq!((london.latitude(), london.longitude()), (51.5074, -0.1278));
        assert_eq!(Place::try_from(<(i32, i32)>::from(london)), Ok(london));
        for (latitude, longitude) in [(90.1, 0.0), (0.0, -180.5), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Place::degrees(latitude, longitude), Err(NoPlace));
        }
        assert_eq!(Place::try_from((i32::MAX, i32::MIN)), Err(NoPlace));
    }

    #[test]
    fn small_moves_are_kept_to_itself() {
        let told = Flow { rate_kbps: 5_000, overhead_permille: 60, saved_ppm: 30_000, left_ppm: 0 };
        assert!(!Flow { rate_kbps: 5_900, overhead_permille: 75, ..told }.moved(&told));
        assert!(Flow { rate_kbps: 6_500, ..told }.moved(&told));
        assert!(Flow { left_ppm: 3, ..told }.moved(&told));
        assert!(!Flow { left_ppm: 9, ..told }.moved(&Flow { left_ppm: 3, ..told }));
    }
}
