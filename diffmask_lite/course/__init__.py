"""What the notebooks use and nobody else: exercises with their checkers, widgets, a game, figures of single lessons, results.

The rest of the package does not import it.
"""
