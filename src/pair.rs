//! Two builds measured in turns: fresh processes for every block, palindromes of turns within it, more blocks only for what is
//! undecided, until everything is decided or time is up. Measures and writes down; what it means is said by
//! [`crate::compare::paired`].

pub mod build;
mod case;
mod effort;
mod hog;
pub mod pool;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::baseline;
use crate::compare::Judgement;
use crate::compare::Policy;
use crate::compare::paired::LOOKS;
use crate::compare::paired::judge;
use crate::error::Error;
use crate::error::Result;
use crate::machine;
use crate::machine::ReferenceKernels;
use crate::pair::build::Built;
use crate::pair::case::cannot;
use crate::pair::case::end;
use crate::pair::case::is_measurable;
use crate::pair::case::keep;
use crate::pair::case::parting;
use crate::pair::case::sentinels;
use crate::pair::case::unexpected;
use crate::pair::effort::Effort;
use crate::pair::worker::Patience;
use crate::pair::worker::Worker;
use crate::record::Session;
use crate::record::pair::Arm;
use crate::record::pair::Ended;
use crate::record::pair::Paired;
use crate::record::pair::PairedBlock;
use crate::record::pair::PairedCase;
use crate::record::pair::PairedKind;
use crate::record::pair::PairedTurns;
use crate::record::pair::Quad;
use crate::record::pair::SCHEMA;
use crate::record::pair::Side;
use crate::settings::Setup;
use crate::suite::turns::Ask;
use crate::suite::turns::Opening;
use crate::suite::turns::PROTOCOL;
use crate::suite::turns::Told;
use crate::workload;

/// What is to be compared, and for how long.
pub struct Plan {
    /// What the candidate is compared with.
    pub base: Built,
    /// What is judged.
    pub candidate: Built,
    /// How to run the model.
    pub setup: Setup,
    /// Words that select scenarios.
    pub words: Vec<String>,
    /// A deliberate change for the worse of the candidate.
    pub injection: Option<String>,
    /// Why the candidate's output is another one, if that is meant.
    pub output_change: Option<String>,
    /// What to do with binaries that are equal byte for byte.
    pub identical: Identical,
    /// Wall-clock time after which nothing new is begun.
    pub budget: Duration,
    /// All orders are drawn from it.
    pub seed: u64,
    /// Folder of baselines, where a calibration of this machine may lie.
    pub baselines: PathBuf,
    /// By which rules.
    pub policy: Policy,
    /// Where the file is written after every block.
    pub path: PathBuf,
}

/// What to do with binaries that are equal byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identical {
    /// They pass; nothing is measured.
    Pass,
    /// Measure them: what is seen is the noise of the machine.
    Measure,
}

/// Hears how it goes.
pub trait Events {
    /// A block is about to start: its number from 1, and what it will measure.
    fn block(&mut self, number: usize, scenarios: &[String]);
    /// A look was taken; `left` is how long reaching the last look takes if what is open stays so.
    fn look(&mut self, judgement: &Judgement, left: Duration);
}

/// An answer may take this long, however small the budget is: a model has to be loaded.
const SHORTEST: Duration = Duration::from_secs(60);

/// Rejected blocks are measured again, but not for ever.
const MOST_REJECTED: usize = 16;

/// Measures two builds in turns.
///
/// # Errors
/// When the base's build cannot take turns with this one, or the file cannot be written. Whatever goes wrong with the
/// candidate or while measuring is in what is returned.
pub fn run(plan: &Plan, stop: &AtomicBool, events: &mut dyn Events) -> Result<Paired> {
    let began = Instant::now();
    let same = plan.base.sha256 == plan.candidate.sha256;
    let mut paired = begin(plan);
    if same && plan.injection.is_none() && plan.identical == Identical::Pass {
        paired.ended = Ended::Identical;
        paired.scenarios = workload::select(&plan.words)?
            .into_iter()
            .map(|scenario| PairedCase { id: scenario.id, ..PairedCase::default() })
            .collect();
        finish(&mut paired, plan)?;
        return Ok(paired);
    }
    paired.save(&plan.path)?;
    let folder = arms_folder(&plan.path)?;
    let arms = [('A', &plan.base), ('B', &plan.candidate), ('N', &plan.base)];
    let outcome = copies(&arms, &folder).and_then(|binaries| {
        let mut pairing = Pairing {
            plan,
            stop: Patience { stop, longest: plan.budget.max(SHORTEST) },
            binaries,
            random: StdRng::seed_from_u64(plan.seed),
            sentinels: Vec::new(),
            efforts: BTreeMap::new(),
            kernels: ReferenceKernels::new(plan.setup.threads),
        };
        pairing.measure(&mut paired, began, events)
    });
    let _ = std::fs::remove_dir_all(&folder);
    match outcome {
        Ok(ended) => paired.ended = ended,
        Err(Error::Interrupted) => paired.ended = Ended::Interrupted,
        // Before the first block nothing is known; later, what was measured is judged all the same.
        Err(error @ Error::NotComparable(_)) if paired.blocks.is_empty() => return Err(error),
        Err(error) => paired.ended = Ended::Failed(error.chain()),
    }
    finish(&mut paired, plan)?;
    Ok(paired)
}

fn begin(plan: &Plan) -> Paired {
    let commit = plan.candidate.commit.clone();
    let arm = |built: &Built, injected: Option<String>| {
        let mut arm = Arm { asked: built.asked.clone(), injected, ..Arm::default() };
        built.stamp(&mut arm.build);
        arm
    };
    Paired {
        schema: SCHEMA,
        kind: PairedKind::Pair,
        session: Session {
            id: machine::session_id(commit.as_deref()),
            started: machine::now(),
            ended: None,
            command: crate::suite::command("pair"),
            harness: "pair".into(),
            conditions: vec![machine::conditions()],
        },
        seed: plan.seed,
        machine: machine::fingerprint(plan.setup.threads, &plan.setup.device),
        base: arm(&plan.base, None),
        candidate: arm(&plan.candidate, plan.injection.clone()),
        output_change: plan.output_change.clone(),
        layout_sd: BTreeMap::new(),
        ended: Ended::Open,
        blocks: Vec::new(),
        scenarios: Vec::new(),
    }
}

fn finish(paired: &mut Paired, plan: &Plan) -> Result<()> {
    paired.session.ended = Some(machine::now());
    paired.session.conditions.push(machine::conditions());
    paired.save(&plan.path)
}

/// A folder beside the file, for the copies of the binaries.
fn arms_folder(path: &Path) -> Result<PathBuf> {
    let folder = path.with_extension(format!("{}.arms", std::process::id()));
    std::fs::create_dir_all(&folder)
        .map_err(|source| Error::Write { path: folder.clone(), source })?;
    std::path::absolute(&folder).map_err(|source| Error::Read { path: folder, source })
}

/// Copies of the binaries under names of one length: the path of a program lies on its stack, and a longer one moves it.
fn copies(arms: &[(char, &Built)], folder: &Path) -> Result<BTreeMap<char, PathBuf>> {
    let copy = |(arm, built): &(char, &Built)| {
        let copy = folder.join(arm.to_string());
        let fail = |source| Error::Write { path: copy.clone(), source };
        let read = |source| Error::Read { path: built.binary.clone(), source };
        let mut from = std::fs::File::open(&built.binary).map_err(read)?;
        let mut to = std::fs::File::create(&copy).map_err(fail)?;
        std::io::copy(&mut from, &mut to).map_err(fail)?;
        let permissions = from.metadata().map_err(read)?.permissions();
        to.set_permissions(permissions).map_err(fail)?;
        Ok((*arm, copy))
    };
    arms.iter().map(copy).collect()
}

/// A measuring under way.
struct Pairing<'a> {
    plan: &'a Plan,
    stop: Patience<'a>,
    binaries: BTreeMap<char, PathBuf>,
    random: StdRng,
    /// Scenarios that the null control takes part in, in every block.
    sentinels: Vec<String>,
    /// How much of each scenario is measured in a block.
    efforts: BTreeMap<String, Effort>,
    /// Measured around every block and written down, for whoever wonders about a verdict; `None` where there is no memory
    /// for them.
    kernels: Option<ReferenceKernels>,
}

type Workers = BTreeMap<char, Worker>;

impl Pairing<'_> {
    fn measure(
        &mut self,
        paired: &mut Paired,
        began: Instant,
        events: &mut dyn Events,
    ) -> Result<Ended> {
        let mut open: Option<Vec<String>> = None;
        let mut looked = 0;
        loop {
            let spent = began.elapsed();
            let longest = paired.blocks.iter().map(|block| block.total_s).fold(0.0, f64::max);
            // A block that would end past the budget is not begun: the budget is a promise.
            if spent + Duration::from_secs_f64(longest) > self.plan.budget {
                return Ok(Ended::Budget);
            }
            self.block(paired, open.as_deref(), events)?;
            paired.save(&self.plan.path)?;
            if paired.blocks.len() == effort::PILOT {
                self.settle(paired);
            }
            let rejected = paired.blocks.iter().filter(|block| block.rejected.is_some()).count();
            let counted = paired.blocks.len() - rejected;
            if rejected > MOST_REJECTED + counted {
                return Ok(Ended::Rejected);
            }
            if !LOOKS.contains(&counted) {
                // Scenarios that can never be decided (all failed, other output) need no look.
                let declared = paired.output_change.as_deref();
                if !paired.scenarios.iter().any(|case| is_measurable(case, declared)) {
                    return Ok(Ended::Decided);
                }
                continue;
            }
            if counted == looked {
                continue; // The block was rejected.
            }
            looked = counted;
            let judgement = judge(paired, &self.plan.policy);
            let still =
                judgement.course.as_ref().map(|course| course.open.clone()).unwrap_or_default();
            let each = began.elapsed() / paired.blocks.len() as u32;
            let share = still.len() as f64 / paired.scenarios.len().max(1) as f64;
            let last = LOOKS[LOOKS.len() - 1];
            events.look(&judgement, each.mul_f64((last - counted) as f64 * share));
            if still.is_empty() {
                return Ok(Ended::Decided);
            }
            if counted == last {
                return Ok(Ended::Looks);
            }
            open = Some(still);
        }
    }

    /// After the pilot: as many quads of every scenario as its noise is worth.
    fn settle(&mut self, paired: &Paired) {
        let load_s = paired.blocks.iter().map(|block| block.load_s).sum::<f64>();
        let load_s = load_s / (paired.blocks.len() * paired.scenarios.len()) as f64;
        for case in &paired.scenarios {
            if let Some(effort) = self.efforts.get_mut(&case.id) {
                effort.settle(case, load_s);
            }
        }
    }

    /// One block: a fresh process per arm, every scenario that is open and the sentinels, in an order of its own.
    fn block(
        &mut self,
        paired: &mut Paired,
        open: Option<&[String]>,
        events: &mut dyn Events,
    ) -> Result<()> {
        let began = Instant::now();
        machine::conditions(); // Steal is counted from here.
        let before = self.kernels.as_ref().map(ReferenceKernels::measure);
        let mut block = PairedBlock::default();
        let mut arms = ['A', 'B', 'N'];
        arms.shuffle(&mut self.random);
        block.started = arms.iter().collect();
        let mut workers = Workers::new();
        for arm in arms {
            workers.insert(arm, self.start(arm, &paired.session.id)?);
        }
        block.load_s = began.elapsed().as_secs_f64();
        if paired.scenarios.is_empty() {
            self.introduce(paired, &workers)?;
        }
        let number = paired.blocks.len();
        let mut ids: Vec<String> = paired
            .scenarios
            .iter()
            .filter(|case| is_measurable(case, paired.output_change.as_deref()))
            .map(|case| case.id.clone())
            .filter(|id| open.is_none_or(|open| open.contains(id)) || self.sentinels.contains(id))
            .collect();
        events.block(number + 1, &ids);
        ids.shuffle(&mut self.random);
        for id in ids {
            self.scenario(paired, &mut workers, &mut block, &id, number)?;
        }
        drop(workers);
        let after = self.kernels.as_ref().map(ReferenceKernels::measure);
        block.references = before.zip(after).map(<[_; 2]>::from);
        let after = machine::conditions();
        block.steal = after.steal;
        block.cpu_pressure_10s = after.cpu_pressure_10s;
        block.rejected = rejected(&block);
        block.total_s = began.elapsed().as_secs_f64();
        paired.blocks.push(block);
        Ok(())
    }

    fn start(&self, arm: char, session: &str) -> Result<Worker> {
        let opening = Opening {
            protocol: PROTOCOL,
            setup: self.plan.setup.clone(),
            words: self.plan.words.clone(),
            session: session.into(),
            injection: self.plan.injection.clone().filter(|_| arm == 'B'),
        };
        let started =
            Worker::start(&self.binaries[&arm], &opening, &self.stop).and_then(|worker| {
                let build = &worker.ready.build;
                if build.is_unoptimised() {
                    let why = format!("it is an unoptimised build (profile `{}`)", build.profile);
                    return Err(Error::Failed(why));
                }
                Ok(worker)
            });
        started.map_err(|error| match error {
            Error::Interrupted => error,
            // A base that cannot do its part is no reason to blame the candidate.
            error if arm != 'B' => Error::NotComparable(format!(
                "the base `{}` cannot take turns: {}",
                self.plan.base.asked,
                error.chain()
            )),
            error => Error::Failed(format!(
                "the candidate `{}` cannot take turns: {}",
                self.plan.candidate.asked,
                error.chain()
            )),
        })
    }

    /// Writes down what the two builds are and which scenarios each of them has.
    fn introduce(&mut self, paired: &mut Paired, workers: &Workers) -> Result<()> {
        let arms = [
            ('A', &mut paired.base, &self.plan.base),
            ('B', &mut paired.candidate, &self.plan.candidate),
        ];
        for (letter, arm, built) in arms {
            let ready = &workers[&letter].ready;
            arm.build = ready.build.clone();
            built.stamp(&mut arm.build);
            arm.model = ready.model.clone();
            arm.settings = ready.settings.clone();
        }
        let (class, base) = (&paired.machine.class, &paired.base);
        let found =
            baseline::calibration_of(&self.plan.baselines, class, &base.model, &base.settings)?;
        let own = found
            .filter(|found| found.machine.class == *class && found.model.quant == base.model.quant);
        let layouts = own.map(|calibration| calibration.layout_sd).unwrap_or_default();
        paired.layout_sd = layouts.into_iter().map(|(kind, spread)| (kind, spread.sd)).collect();
        let side = |letter: char, id: &String| {
            let ready = &workers[&letter].ready;
            let unknown = !ready.scenarios.contains(id);
            let absent = ready
                .unsupported
                .clone()
                .or_else(|| unknown.then(|| "unknown: the build has no such scenario".into()));
            Side { absent, ..Side::default() }
        };
        let mut ids = workers[&'B'].ready.scenarios.clone();
        ids.extend(
            workers[&'A']
                .ready
                .scenarios
                .iter()
                .filter(|id| !ids.contains(id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        if ids.is_empty() {
            return Err(Error::NotComparable("no scenario was selected".into()));
        }
        for id in ids {
            let (base, candidate) = (side('A', &id), side('B', &id));
            paired.scenarios.push(PairedCase { id, base, candidate, ..PairedCase::default() });
        }
        self.sentinels = sentinels(&paired.scenarios);
        Ok(())
    }

    /// One scenario in one block. What a worker cannot do is written into its side of the case; a worker that breaks takes its
    /// whole block with it, and the case is over.
    fn scenario(
        &mut self,
        paired: &mut Paired,
        workers: &mut Workers,
        block: &mut PairedBlock,
        id: &str,
        number: usize,
    ) -> Result<()> {
        let case = paired.scenarios.iter_mut().find(|case| case.id == id).expect("it was listed");
        let letters: Vec<char> = block
            .started
            .chars()
            .filter(|arm| *arm != 'N' || self.sentinels.iter().any(|sentinel| sentinel == id))
            .filter(|arm| workers.contains_key(arm))
            .collect();
        if !(letters.contains(&'A') && letters.contains(&'B')) {
            return Ok(()); // A worker broke earlier in this block; the next one has new workers.
        }
        let mut turns = PairedTurns { block: number, ..PairedTurns::default() };
        let measured = self.turns(case, workers, block, &letters, &mut turns);
        match measured {
            Ok(true) => case.blocks.push(turns),
            Ok(false) => {}
            Err(broken) => {
                let (arm, error) = *broken;
                if matches!(error, Error::Interrupted) {
                    return Err(error);
                }
                workers.remove(&arm);
                let side = if arm == 'B' { &mut case.candidate } else { &mut case.base };
                side.absent = Some(format!("failed: {}", error.chain()));
            }
        }
        Ok(())
    }

    /// Warm-ups, quads and the end of one scenario. False if a side cannot do it or the outputs part; errors name the arm.
    fn turns(
        &mut self,
        case: &mut PairedCase,
        workers: &mut Workers,
        block: &mut PairedBlock,
        letters: &[char],
        turns: &mut PairedTurns,
    ) -> std::result::Result<bool, Box<(char, Error)>> {
        let mut ask = |arm: char, ask: &Ask| {
            let worker = workers.get_mut(&arm).expect("only arms with a worker take part");
            worker.ask(ask, &self.stop).map_err(|error| Box::new((arm, error)))
        };
        let began = Instant::now();
        let mut outputs: BTreeMap<char, Vec<Vec<u32>>> = BTreeMap::new();
        for &arm in letters {
            match ask(arm, &Ask::WarmUp { scenario: case.id.clone() })? {
                Told::Warm { ids } => drop(outputs.insert(arm, ids)),
                Told::Cannot { why } => return Ok(cannot(case, arm, why)),
                other => return Err(Box::new((arm, unexpected(&other)))),
            }
        }
        let warm = began.elapsed();
        block.warm_up_s += warm.as_secs_f64();
        case.parting = parting(&outputs[&'A'], &outputs[&'B']).or(case.parting.take());
        let parted = case.parting.is_some() && self.plan.output_change.is_none();
        let generation = warm / (letters.len() * self.plan.setup.generation.warmups.max(1)) as u32;
        let quads =
            self.efforts.entry(case.id.clone()).or_insert_with(|| Effort::new(generation)).quads;
        let began = Instant::now();
        for _ in 0..if parted { 0 } else { quads } {
            let mut half = letters.to_vec();
            half.shuffle(&mut self.random);
            let order: Vec<char> = half.iter().chain(half.iter().rev()).copied().collect();
            let mut quad = Quad { order: order.iter().collect(), ..Quad::default() };
            for arm in order {
                match ask(arm, &Ask::Turn { generations: 1, injection: None })? {
                    Told::Values { values } => keep(&mut quad, values),
                    Told::Cannot { why } => return Ok(cannot(case, arm, why)),
                    other => return Err(Box::new((arm, unexpected(&other)))),
                }
            }
            turns.quads.push(quad);
        }
        block.turns_s += began.elapsed().as_secs_f64();
        for &arm in letters {
            match ask(arm, &Ask::Finish { injection: None })? {
                Told::Case { case: done } => end(case, turns, arm, *done, parted),
                Told::Cannot { why } => return Ok(cannot(case, arm, why)),
                other => return Err(Box::new((arm, unexpected(&other)))),
            }
        }
        Ok(!parted)
    }
}

/// The rule by which a block is rejected: never by its outcome. Reference kernels reject nothing: on a shared host they move by
/// more than any limit within most blocks, while what the turns say of the two builds hardly does.
fn rejected(block: &PairedBlock) -> Option<String> {
    const STOLEN: f64 = 0.05;
    let steal = block.steal.filter(|steal| *steal > STOLEN)?;
    Some(format!("other guests took {:.0} % of the CPU time", 100.0 * steal))
}
