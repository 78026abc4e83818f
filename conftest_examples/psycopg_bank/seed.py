"""Accounts for the tests."""


def accounts(connection):
    """A thousand owners with a hundred each."""
    with connection.cursor().copy("COPY account FROM STDIN") as copy:
        for number in range(1000):
            copy.write_row([f"owner {number}", 100])
