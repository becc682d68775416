"""Forecasts of a pool's requests per second, from its own history. Pure: no clock, no files.

Here live the forecasters and their combination. What a rule does with a forecast is the rule's.
"""
