"""What headers say, with errors that name file and card.

`cards` holds the cards of an image and parses each only when it is asked for; `rules` says, for one instrument, which
card, file name or constant a quantity comes from, and asks `cards` for it; `times` turns what a card says of time
into MJD TAI. `text_cards` is apart: a fast reader and writer of whole small header files as text, without astropy.
"""
