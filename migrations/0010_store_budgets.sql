-- Monthly budgets of stores, and the ledger of what each store has spent in which month (UTC).

-- migrate:up
CREATE TABLE store_budgets (
    instance_id     text PRIMARY KEY,
    monthly_nanousd bigint NOT NULL CHECK (monthly_nanousd >= 0),
    -- The share of it from which on the store is warned.
    warn_at         double precision NOT NULL DEFAULT 0.8 CHECK (warn_at > 0 AND warn_at <= 1),
    set_by          text NOT NULL,
    changed_at      timestamptz NOT NULL DEFAULT now(),
    -- The months in which the log has said so, so that a new leader does not say it again.
    warned_in       date,
    stopped_in      date
);
CREATE TABLE store_spend (
    instance_id   text NOT NULL,
    month         date NOT NULL DEFAULT date_trunc('month', now() AT TIME ZONE 'UTC')::date,
    spent_nanousd bigint NOT NULL,
    PRIMARY KEY (instance_id, month)
) WITH (fillfactor = 50); -- every paid step changes a row: room beside it keeps that off the index

-- Whatever changes a step's cost books the difference in the same statement: no release, no correction and no hand
-- can make the ledger differ from the bills. It is booked as the owner: the roles of services, those of the release before
-- included, need no right to the ledger, and have none to change it.
CREATE FUNCTION book_spend() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    booked bigint := NEW.cost_nanousd;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        booked := booked - OLD.cost_nanousd;
    END IF;
    INSERT INTO store_spend AS ledger (instance_id, spent_nanousd)
    SELECT instance_id, booked FROM blog_generations WHERE id = NEW.job_id
    ON CONFLICT (instance_id, month) DO UPDATE SET spent_nanousd = ledger.spent_nanousd + excluded.spent_nanousd;
    RETURN NULL;
END
$$;
-- Holds writers off until what was paid before is booked.
CREATE TRIGGER book_first_cost AFTER INSERT ON blog_steps
    FOR EACH ROW WHEN (NEW.cost_nanousd <> 0) EXECUTE FUNCTION book_spend();
CREATE TRIGGER book_more_cost AFTER UPDATE OF cost_nanousd ON blog_steps
    FOR EACH ROW WHEN (NEW.cost_nanousd <> OLD.cost_nanousd) EXECUTE FUNCTION book_spend();
INSERT INTO store_spend (instance_id, month, spent_nanousd)
SELECT job.instance_id,
       date_trunc('month', coalesce(step.finished_at, step.call_started_at) AT TIME ZONE 'UTC')::date,
       sum(step.cost_nanousd)
  FROM blog_steps AS step JOIN blog_generations AS job ON job.id = step.job_id
 WHERE step.cost_nanousd <> 0
 GROUP BY 1, 2;

-- Of a store's jobs that are due, those that its budget holds back: they stand behind the `queued` ones.
ALTER TABLE store_outlooks ADD COLUMN held integer NOT NULL DEFAULT 0;

-- migrate:down
ALTER TABLE store_outlooks DROP COLUMN held;
DROP TRIGGER book_more_cost ON blog_steps;
DROP TRIGGER book_first_cost ON blog_steps;
DROP FUNCTION book_spend();
DROP TABLE store_spend;
DROP TABLE store_budgets;
