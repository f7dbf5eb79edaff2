//! What the simulated duels draw their differences from.

use albedo::rng::{Stream, Use, derive_seed};

/// Values of a tabulated distribution: a draw is one of these equally likely
/// quantiles, so that mean and spread are exact.
const QUANTILES: usize = 4096;

/// Repositories in the population.
const REPOSITORIES: usize = 40;

/// Spread of a difference in the population of repositories.
const REPOSITORY_NOISE: f64 = 0.2;

/// How the differences of a duel scatter around the true effect.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// A Beta distribution scaled to [−1, 1], of this SD.
    Graded(f64),
    /// −1, 0 and 1, of this SD.
    Coarse(f64),
    /// 40 fixed repositories with effects centred over them that explain this
    /// part of the variance; each task is drawn uniformly from them. SD 0.2.
    Repositories(f64),
    /// The same with the repositories' effects drawn anew for each duel.
    RepositoriesAnew(f64),
    /// Student's distribution with 1.5 degrees of freedom, scaled by a tenth, cut
    /// at ±1.
    HeavyTails,
    /// 0 in 95 % of the samples, otherwise −1 or 1.
    MostlyZero,
    /// 1 in 3 % of the samples, otherwise a small loss.
    RareWins,
    /// Graded of SD 0.15, and one effect of this SD in points common to all of a
    /// duel.
    DuelEffect(f64),
    /// Graded of SD 0.15, autoregressive of order 1 with this coefficient.
    Autoregressive(f64),
    /// Graded of SD 0.15; a judge that favours the challenger by this many points in
    /// the first quarter of 948 samples and the king in the others, 0 on average.
    Drift(f64),
}

impl Profile {
    /// The profiles under which equal models have mean 0 in every duel.
    pub(crate) const NULL_HOLDS: [Self; 8] = [
        Self::Graded(0.15),
        Self::Graded(0.25),
        Self::Coarse(0.48),
        Self::Repositories(0.35),
        Self::Repositories(0.7),
        Self::HeavyTails,
        Self::MostlyZero,
        Self::RareWins,
    ];

    /// The profiles that no test inside one duel can see through.
    pub(crate) const NULL_BROKEN: [Self; 5] = [
        Self::RepositoriesAnew(0.7),
        Self::DuelEffect(1.0),
        Self::DuelEffect(1.8),
        Self::Autoregressive(0.3),
        Self::Drift(10.0),
    ];

    /// The name in tables.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Graded(sd) => format!("graded, SD {sd}"),
            Self::Coarse(sd) => format!("coarse, SD {sd}"),
            Self::Repositories(icc) => format!("40 repositories, ICC {icc}"),
            Self::RepositoriesAnew(icc) => format!("repositories drawn anew, ICC {icc}"),
            Self::HeavyTails => "heavy tails, SD 0.26".into(),
            Self::MostlyZero => "95 % zeros, SD 0.22".into(),
            Self::RareWins => "3 % wins, SD 0.18".into(),
            Self::DuelEffect(sd) => format!("graded, SD 0.15; duel-level SD {sd:.1} points"),
            Self::Autoregressive(r) => format!("graded, SD 0.15; AR({r})"),
            Self::Drift(points) => format!("graded, SD 0.15; drift of {points:.0} points"),
        }
    }
}

/// Draws the differences of duels at one true effect.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    profile: Profile,
    effect: f64,
    table: Vec<f64>,
    repositories: Vec<f64>,
    shift: f64,
    drawn: u32,
}

impl Source {
    /// `profile` around `effect`, on the scale of differences.
    pub(crate) fn new(profile: Profile, effect: f64) -> Self {
        let (spread, between) = match profile {
            Profile::Graded(sd) => (sd, 0.0),
            Profile::Repositories(icc) | Profile::RepositoriesAnew(icc) => {
                (REPOSITORY_NOISE * (1.0 - icc).sqrt(), REPOSITORY_NOISE * icc.sqrt())
            }
            _ => (0.15, 0.0),
        };
        let mut stream = Stream::new(derive_seed("population", &[]), Use::Bootstrap);
        let mut repositories: Vec<_> = (0..REPOSITORIES).map(|_| normal(&mut stream)).collect();
        standardise(&mut repositories, between);
        let table = if matches!(profile, Profile::HeavyTails) { heavy_tails() } else { quantiles(spread) };
        Self { profile, effect, table, repositories, shift: 0.0, drawn: 0 }
    }

    /// Draws what a whole duel shares.
    pub(crate) fn start_duel(&mut self, stream: &mut Stream) {
        self.drawn = 0;
        match self.profile {
            Profile::Autoregressive(_) => self.shift = 0.0,
            Profile::DuelEffect(sd) => self.shift = sd / 100.0 * normal(stream),
            Profile::RepositoriesAnew(icc) => {
                let between = REPOSITORY_NOISE * icc.sqrt();
                for effect in &mut self.repositories {
                    *effect = between * normal(stream);
                }
            }
            _ => {}
        }
    }

    /// The standard deviation of a difference of an equal challenger, where the
    /// profile has one by name.
    pub(crate) fn sd(&self) -> f64 {
        match self.profile {
            Profile::Graded(sd) | Profile::Coarse(sd) => sd,
            _ => 0.15,
        }
    }

    /// The next difference, in [−1, 1].
    pub(crate) fn draw(&mut self, stream: &mut Stream) -> f64 {
        self.drawn += 1;
        let bits = stream.next_u64();
        let unit = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        let noise = match self.profile {
            Profile::Coarse(sd) => {
                let square = sd * sd + self.effect * self.effect;
                let win = f64::midpoint(square, self.effect);
                return f64::from(u8::from(unit < win)) - f64::from(u8::from(unit >= 1.0 - (square - win)));
            }
            Profile::MostlyZero => {
                let win = f64::midpoint(0.05, self.effect);
                return f64::from(u8::from(unit < win)) - f64::from(u8::from(unit >= 0.95 + win));
            }
            Profile::RareWins => {
                let loss = (self.effect - 0.03) / 0.97;
                return if unit < 0.03 { 1.0 } else { loss };
            }
            Profile::Graded(_) | Profile::DuelEffect(_) | Profile::HeavyTails => {
                self.table[bits as usize % QUANTILES]
            }
            Profile::Autoregressive(coefficient) => {
                let fresh = (1.0 - coefficient * coefficient).sqrt() * self.table[bits as usize % QUANTILES];
                self.shift = coefficient * self.shift + fresh;
                return (self.effect + self.shift).clamp(-1.0, 1.0);
            }
            Profile::Drift(points) => {
                let drift = if self.drawn <= 237 { points } else { -points / 3.0 };
                self.table[bits as usize % QUANTILES] + drift / 100.0
            }
            Profile::Repositories(_) | Profile::RepositoriesAnew(_) => {
                let repository = ((bits >> 32) as usize * REPOSITORIES) >> 32;
                self.table[bits as usize % QUANTILES] + self.repositories[repository]
            }
        };
        (self.effect + self.shift + noise).clamp(-1.0, 1.0)
    }
}

/// Quantiles of Student's distribution with 1.5 degrees of freedom, a tenth of its
/// scale, cut at ±1; by the density, summed in small steps.
fn heavy_tails() -> Vec<f64> {
    const STEPS: usize = 1 << 18;
    const DEGREES: f64 = 1.5;
    // Beyond 100 times the scale on either side, all is cut at ±1.
    let place = |step: usize| 200.0 * (step as f64 + 0.5) / STEPS as f64 - 100.0;
    let density = |x: f64| (1.0 + x * x / DEGREES).powf(-f64::midpoint(DEGREES, 1.0));
    let densities: Vec<_> = (0..STEPS).map(|step| density(place(step))).collect();
    let total: f64 = densities.iter().sum();
    let (mut step, mut below) = (0, densities[0]);
    let quantile = |index: usize| {
        let wanted = total * (index as f64 + 0.5) / QUANTILES as f64;
        while below < wanted && step + 1 < STEPS {
            step += 1;
            below += densities[step];
        }
        (place(step) / 10.0).clamp(-1.0, 1.0)
    };
    let mut values: Vec<_> = (0..QUANTILES).map(quantile).collect();
    // Symmetric by construction; this takes the rounding of the steps out.
    let mean = values.iter().sum::<f64>() / QUANTILES as f64;
    for value in &mut values {
        *value -= mean;
    }
    values
}

/// Quantiles of the symmetric Beta distribution on [−1, 1] with SD `sd`.
fn quantiles(sd: f64) -> Vec<f64> {
    const STEPS: usize = 1 << 16;
    let exponent = (1.0 / (sd * sd) - 3.0) / 2.0;
    let place = |step: usize| 2.0 * (step as f64 + 0.5) / STEPS as f64 - 1.0;
    let density: Vec<_> = (0..STEPS).map(|step| (1.0 - place(step).powi(2)).powf(exponent)).collect();
    let total: f64 = density.iter().sum();
    let (mut step, mut below) = (0, density[0]);
    let mut values: Vec<_> = (0..QUANTILES)
        .map(|index| {
            let wanted = total * (index as f64 + 0.5) / QUANTILES as f64;
            while below < wanted && step + 1 < STEPS {
                step += 1;
                below += density[step];
            }
            place(step)
        })
        .collect();
    standardise(&mut values, sd);
    values
}

/// Moves and scales `values` to mean 0 and SD `sd`, exactly but for rounding.
fn standardise(values: &mut [f64], sd: f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let own = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    for value in values {
        *value = (*value - mean) * sd / own;
    }
}

/// A standard normal number (Box and Muller, 1958).
pub(crate) fn normal(stream: &mut Stream) -> f64 {
    let mut unit = || ((stream.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}
