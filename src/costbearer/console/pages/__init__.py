"""The pages: what reports, keys and the auditor can do, for people; the same question and the same `Table` as the API.

HTML made on the server, readable without scripts. `shell` is the frame of every page, `screens` lists those that show a
report, `grids` turns a table into cells and `links` says where each leads, `charts` draws it.
"""
