CREATE INDEX journal_giver ON journal (giver);
