"""The dashboard: pages of the API for people, made on the server, kept new by one stream of events.

Every asset is served from the wheel; nothing is fetched from elsewhere, and no page needs JavaScript to be read.
"""
