"""Recipe to plan: a pure value, made without torch, that says what a run will do."""

from picual.plan.make import FORMAT, data_ingredients, make_plan, variant
from picual.plan.obstacles import memory_allowed, obstacles
from picual.plan.sites import STATE, Site
from picual.plan.values import Plan, PlannedMetric, PlannedStep

__all__ = [
    "FORMAT", "STATE", "Plan", "PlannedMetric", "PlannedStep", "Site", "data_ingredients", "make_plan",
    "memory_allowed", "obstacles", "variant",
]  # fmt: skip
