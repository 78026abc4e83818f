"""Articles for the tests."""


def articles(connection):
    """Two drafts and one that is published."""
    connection.execute("INSERT INTO author (name) VALUES ('ada')")
    connection.execute(
        "INSERT INTO article (author_id, title, published) VALUES (1, 'Notes', false), (1, 'Engines', false), "
        "(1, 'Looms', true)"
    )
