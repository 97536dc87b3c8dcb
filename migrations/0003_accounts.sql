-- Accounts: several stores that belong together share one part of the order, each store its part within.

-- migrate:up
CREATE TABLE accounts (
    account_id     text PRIMARY KEY,
    weight         double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    -- The virtual counter of the fair order among accounts.
    served_nanousd bigint NOT NULL DEFAULT 0,
    updated_at     timestamptz NOT NULL DEFAULT now()
);
-- A store without an account is one by itself, under its own name and with its own weight.
INSERT INTO accounts (account_id, weight, served_nanousd) SELECT instance_id, weight, served_nanousd FROM stores;
ALTER TABLE stores
    ADD COLUMN account_id text,
    -- When somebody last set the store's account or a weight: the scheduler takes it over while it runs.
    ADD COLUMN configured_at timestamptz;
CREATE INDEX idx_stores_configured ON stores (configured_at) WHERE configured_at IS NOT NULL;

-- migrate:down
ALTER TABLE stores DROP COLUMN configured_at, DROP COLUMN account_id;
DROP TABLE accounts;
