"""What scipy, statsmodels, choix and krippendorff compute of the same data.

    python foreign.py > foreign.json
"""

import json
import math

import choix
import krippendorff
import numpy
import scipy.stats
import statsmodels.api
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint


def means(random):
    for clusters, most in [(2, 1), (7, 5), (40, 12), (300, 1)]:
        observations = []
        for cluster in range(clusters):
            shift = random.normal(0, 0.2)
            for _ in range(random.integers(1, most + 1)):
                observations.append([cluster, round(float(numpy.clip(shift + random.normal(0, 0.4), -1, 1)), 6)])
        groups, values = zip(*observations)
        fit = statsmodels.api.OLS(values, numpy.ones(len(values))).fit(
            cov_type="cluster", cov_kwds={"groups": numpy.array(groups)}, use_t=True)
        low, high = fit.conf_int(alpha=0.05)[0]
        yield {"observations": observations, "mean": fit.params[0], "standard_error": fit.bse[0], "low": low, "high": high}


def coins():
    for first, second in [(0, 0), (1, 4), (12, 30), (100, 141), (1000, 1100)]:
        yield {"first": first, "second": second, "p": mcnemar([[5, first], [second, 5]], exact=True).pvalue}


def proportions():
    for count, of in [(0, 3), (5, 5), (17, 40), (1, 1000), (999, 1000), (4321, 9999)]:
        low, high = proportion_confint(count, of, alpha=0.1, method="wilson")
        yield {"count": count, "of": of, "low": low, "high": high}


def kappas(random):
    for size, categories in [(12, 2), (90, 3), (400, 5)]:
        first = random.integers(0, categories, size)
        second = numpy.where(random.random(size) < 0.6, first, random.integers(0, categories, size))
        table = numpy.zeros((categories, categories))
        for pair in zip(first, second):
            table[pair] += 1
        found = cohens_kappa(table)
        yield {"ratings": [[int(a), int(b)] for a, b in zip(first, second)], "kappa": found.kappa,
               "standard_error": found.std_kappa, "low": found.kappa_low, "high": found.kappa_upp}


def alphas(random):
    for raters, size in [(2, 20), (3, 60), (5, 15)]:
        truth = random.integers(1, 6, size)
        ratings = numpy.array([numpy.clip(truth + random.integers(-1, 2, size), 1, 5) for _ in range(raters)], float)
        ratings[random.random(ratings.shape) < 0.2] = numpy.nan
        found = {scale: krippendorff.alpha(reliability_data=ratings, level_of_measurement=scale)
                 for scale in ("nominal", "ordinal", "interval")}
        items = [[value for value in item if not math.isnan(value)] for item in ratings.T]
        yield {"items": items, **found}


def ratings(random):
    for size, meetings in [(2, 40), (4, 80), (9, 600)]:
        strengths = random.normal(0, 1, size)
        met = []
        for _ in range(meetings):
            first, second = map(int, random.choice(size, 2, replace=False))
            wins = random.random() < 1 / (1 + math.exp(strengths[second] - strengths[first]))
            met.append([first, second] if wins else [second, first])
        best = choix.opt_pairwise(size, met, alpha=0.0, tol=1e-12)
        # The same as a logistic regression on who met, for errors and deviance.
        rows, wins = {}, {}
        for winner, loser in met:
            pair = (min(winner, loser), max(winner, loser))
            rows[pair] = rows.get(pair, 0) + 1
            wins[pair] = wins.get(pair, 0) + (winner == pair[0])
        design = numpy.zeros((len(rows), size))
        for row, (first, second) in enumerate(rows):
            design[row, first], design[row, second] = 1, -1
        successes = numpy.array([[wins[pair], rows[pair] - wins[pair]] for pair in rows])
        fit = statsmodels.api.GLM(successes, design[:, 1:], family=statsmodels.api.families.Binomial()).fit(tol=1e-14)
        contrast = numpy.eye(size)[:, 1:] - 1 / size
        errors = numpy.sqrt(numpy.diag(contrast @ fit.cov_params() @ contrast.T))
        assert numpy.allclose(contrast @ fit.params, best - best.mean(), atol=1e-5)
        degrees = len(rows) - (size - 1)
        yield {"size": size, "meetings": met, "strengths": list(contrast @ fit.params), "standard_errors": list(errors),
               "deviance": fit.deviance if degrees else 0.0, "degrees": degrees,
               "p": float(scipy.stats.chi2.sf(fit.deviance, degrees)) if degrees else None}


def lengths(random):
    for size in (20, 300):
        difference = numpy.round(random.normal(50, 300, size), 3)
        preference = numpy.round(numpy.clip(
            1 / (1 + numpy.exp(-(0.3 + 0.002 * difference))) + random.normal(0, 0.3, size), 0, 1) * 2) / 2
        scaled = numpy.tanh(difference / difference.std())
        fit = statsmodels.api.GLM(preference, statsmodels.api.add_constant(scaled),
                                  family=statsmodels.api.families.Binomial()).fit(cov_type="HC0", tol=1e-14)
        (low, high), (length_low, length_high) = fit.conf_int(alpha=0.05)
        logistic = lambda x: 1 / (1 + math.exp(-x))
        yield {"pairs": [[float(p), float(d)] for p, d in zip(preference, difference)],
               "preferred": logistic(fit.params[0]), "low": logistic(low), "high": logistic(high),
               "length": fit.params[1], "length_low": length_low, "length_high": length_high}


def sizes():
    for effect, sd, alpha, power in [(0.05, 0.48, 0.05, 0.8), (0.02, 0.3, 0.001, 0.9), (0.5, 0.4, 0.05, 0.95)]:
        reach = (scipy.stats.norm.ppf(1 - alpha) + scipy.stats.norm.ppf(power)) * sd
        yield {"effect": effect, "sd": sd, "alpha": alpha, "power": power, "samples": math.ceil((reach / effect) ** 2),
               "detectable": reach / math.sqrt(50)}


random = numpy.random.default_rng(20261128)
print(json.dumps({
    "means": list(means(random)),
    "coins": list(coins()),
    "proportions": list(proportions()),
    "kappas": list(kappas(random)),
    "alphas": list(alphas(random)),
    "ratings": list(ratings(random)),
    "lengths": list(lengths(random)),
    "sizes": list(sizes()),
}, indent=None, separators=(",", ":")))
