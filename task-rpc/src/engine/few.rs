//! Numbers that come in the query itself, and are so few that it is answered where it was read: to collect them as more
//! are collected would take as long as all else that a call takes.

use task_proto::fault::Fault;
use task_proto::limits::INLINE_NUMBERS;
use task_proto::number::Number;
use task_proto::stats::{Missing, Query, Source};

use super::crew::Crew;
use super::mean::{mean_of_few, mean_of_ints};
use super::sequence::{Extent, Sequence, Values, empty, huge, missing};
use super::{Engine, Median, Modes, raw};

/// At most [`INLINE_NUMBERS`] numbers, where they came.
#[derive(Debug)]
pub struct Few<'a> {
    engine: &'a Engine,
    query: &'a Query,
    /// Whether every value is taken as its nearest `f64`.
    is_float: bool,
    extent: Extent,
}

impl<'a> Few<'a> {
    /// Those of a query that has no more, all of them its own; `None` if it is another.
    ///
    /// # Errors
    /// What is wrong with it, with the source and the place.
    pub(super) fn of(engine: &'a Engine, query: &'a Query) -> Option<Result<Self, Fault>> {
        let number = |source: &Source| match source {
            Source::Numbers(numbers) => Some(numbers.len()),
            Source::Attached { .. } => None,
        };
        let number = query.sources.iter().map(number).sum::<Option<usize>>()?;
        if number > INLINE_NUMBERS {
            return None;
        }
        let extent = Extent { count: number as u64, ..Extent::default() };
        let few = Few { engine, query, is_float: false, extent };
        Some(few.looked_at())
    }

    fn looked_at(mut self) -> Result<Self, Fault> {
        let sources = &self.query.sources;
        for (source, list) in sources.iter().enumerate() {
            let Source::Numbers(list) = list else { continue };
            if let Some(index) = list.huge()
                && self.extent.warnings.is_empty()
            {
                let several = (sources.len() > 1).then_some(source);
                self.extent.warnings.push(huge(format_args!("position {}", index + 1), several));
            }
            for (index, number) in list.iter().enumerate() {
                match number {
                    Number::Int(_) => {}
                    Number::Float(float) if !float.is_nan() => self.is_float = true,
                    Number::Float(_) if self.query.missing == Missing::Error => {
                        return Err(raw::at(missing(), index as u64 + 1).in_source(source as u32));
                    }
                    Number::Float(_) => {
                        self.extent.count -= 1;
                        self.extent.missing += 1;
                    }
                }
            }
        }
        if self.extent.count == 0 { Err(empty(self.extent.missing)) } else { Ok(self) }
    }

    /// How many there are.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    fn numbers(&self) -> impl Iterator<Item = Number> + Clone {
        let lists = self.query.sources.iter().filter_map(|source| match source {
            Source::Numbers(list) => Some(&**list),
            Source::Attached { .. } => None,
        });
        lists.flatten().copied().filter(|number| !number.to_f64().is_nan())
    }

    fn floats(&self) -> impl Iterator<Item = f64> + Clone {
        self.numbers().map(Number::to_f64)
    }

    fn ints(&self) -> impl Iterator<Item = i64> {
        self.numbers().filter_map(|number| match number {
            Number::Int(int) => Some(int),
            Number::Float(_) => None,
        })
    }

    /// The `f64` nearest to the exact rational mean, as that of a [`Sequence`].
    pub fn mean(&self) -> f64 {
        if self.is_float {
            mean_of_few(self.engine.simd, self.floats())
        } else {
            mean_of_ints(self.ints().map(i128::from).sum(), self.extent.count)
        }
    }

    fn sequence(&self) -> Sequence {
        let values = if self.is_float {
            Values::Floats(self.floats().collect::<Vec<_>>().into())
        } else {
            Values::Ints(self.ints().collect::<Vec<_>>().into())
        };
        Sequence::of_few(values, self.extent.clone(), self.mean())
    }

    /// The median.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn median(&self) -> Result<Median, Fault> {
        self.engine.median(&self.sequence(), &Crew::new(1, &|| Ok(())))
    }

    /// The mode.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn modes(&self) -> Result<Modes<Number>, Fault> {
        self.engine.modes(&self.sequence(), &Crew::new(1, &|| Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use task_proto::fault::FaultKind;

    use super::super::intake::inline;
    use super::super::{Budget, Collector, Data, Simd};
    use super::*;

    fn query(lists: &[&[Number]], missing: Missing) -> Query {
        let sources = lists.iter().map(|list| Source::Numbers(list.iter().copied().collect())).collect();
        Query { sources, missing }
    }

    /// What is said of a query, in a form that can be compared bit by bit.
    fn said(answer: Result<(f64, &Extent), &Fault>) -> String {
        match answer {
            Ok((mean, extent)) => format!("{:x} {extent:?}", mean.to_bits()),
            Err(fault) => format!("{fault:?}"),
        }
    }

    /// As more numbers are collected.
    fn collected(engine: &Engine, query: &Query) -> Result<Sequence, Fault> {
        let mut collector = Collector::new(engine.simd, &Budget::unlimited(), query.missing);
        inline(&mut collector, query, || Ok(()))?;
        collector.finish(&|| Ok(()))
    }

    #[test]
    fn few_numbers_are_answered_like_many() {
        let engine = Engine::new(Simd::best(), Budget::unlimited());
        let mut bits = 7_u64;
        let mut random = move || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bits ^ bits >> 29
        };
        for round in 0..20_000 {
            let mut list = || -> Vec<Number> {
                (0..random() % 9)
                    .map(|_| match (round % 6, random() % 8) {
                        (5, 0..3) => Number::Int(i64::MAX - (random() % 5000) as i64),
                        (0, _) => Number::Int(random() as i64),
                        (1, _) => Number::Float(f64::from_bits(random())),
                        (2, 0) => Number::Float(f64::NAN),
                        (2, _) => Number::Int(random() as i64 % 5),
                        (3, at) => Number::Float(
                            [1e308, -1e308, 1.0, f64::INFINITY, 5e-324, -0.0, 0.1, f64::MAX][at as usize],
                        ),
                        (_, at) => Number::Float((random() % 1000) as f64 / 2_f64.powi(at as i32 * 8)),
                    })
                    .collect()
            };
            let lists = [list(), list()];
            let missing = if round / 6 % 2 == 0 { Missing::Error } else { Missing::Skip };
            let mut query = query(&lists.each_ref().map(Vec::as_slice), missing);
            if round % 6 == 5 {
                let huge = ["[1, 18446744073709551616]", "[1.5]", "[\"-9223372036854775809\", null]"];
                let list = serde_json::from_str(huge[round / 6 % 3]).unwrap();
                query.sources.insert(round % 7 % 3, Source::Numbers(list));
            }
            let few = Few::of(&engine, &query).unwrap();
            let many = collected(&engine, &query);
            let answers = [
                said(few.as_ref().map(|few| (few.mean(), few.extent()))),
                said(many.as_ref().map(|many| (many.mean(), many.extent()))),
            ];
            assert_eq!(answers[0], answers[1], "{query:?}");
            let (Ok(few), Ok(many)) = (few, many) else { continue };
            let many = Data::new(many, engine.clone());
            let crew = Crew::new(1, &|| Ok(()));
            let compared =
                |median: Median| [median.value, median.low, median.high].map(|value| format!("{value:?}"));
            let medians =
                [few.median(), engine.median(many.sequence(), &crew)].map(|median| compared(median.unwrap()));
            assert_eq!(medians[0], medians[1], "{query:?}");
            let modes = [few.modes(), engine.modes(many.sequence(), &crew)]
                .map(|modes| format!("{:?}", modes.unwrap()));
            assert_eq!(modes[0], modes[1], "{query:?}");
        }
    }

    #[test]
    fn as_many_and_as_far_apart_as_they_may_be_they_are_summed_exactly() {
        let engine = Engine::new(Simd::best(), Budget::unlimited());
        let odd = 2.0_f64.next_down();
        for (apart, sign) in (0..140).flat_map(|apart| [(apart, 1.0), (apart, -1.0)]) {
            let mut list = vec![Number::Float(sign * odd * 2_f64.powi(apart)); INLINE_NUMBERS];
            list[0] = Number::Float(odd);
            let query = query(&[&list], Missing::Error);
            let few = Few::of(&engine, &query).unwrap().unwrap();
            let many = collected(&engine, &query).unwrap();
            assert_eq!(few.mean().to_bits(), many.mean().to_bits(), "2^{apart}");
        }
    }

    #[test]
    fn what_is_not_few_or_not_all_here_is_for_others() {
        let engine = Engine::new(Simd::best(), Budget::unlimited());
        let list = vec![Number::Int(1); INLINE_NUMBERS / 2 + 1];
        assert!(Few::of(&engine, &query(&[&list], Missing::Error)).is_some());
        assert!(Few::of(&engine, &query(&[&list, &list], Missing::Error)).is_none());
        let attached = Source::Attached { attached: 0, format: task_proto::stats::Format::Text };
        let attached = Query { sources: vec![attached], missing: Missing::Error };
        assert!(Few::of(&engine, &attached).is_none());
        let nothing = query(&[], Missing::Error);
        let nothing = Few::of(&engine, &nothing).unwrap();
        assert_eq!(nothing.unwrap_err().kind, FaultKind::EmptyInput);
    }
}
