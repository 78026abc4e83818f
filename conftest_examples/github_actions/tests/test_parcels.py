"""The application's own tests."""


def test_every_parcel_may_have_a_carrier(lakebranch_conn):
    lakebranch_conn.execute("UPDATE parcel SET carrier = 'post' WHERE weight > 20")
    assert lakebranch_conn.execute("SELECT count(*) FROM parcel WHERE carrier IS NULL").fetchone() == (10500,)
