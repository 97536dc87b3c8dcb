-- Row-level security is on, and lets every role see every row: what a role is to see less of, `python -m migrations grant`
-- adds for that role (sql/policies.sql). So this alone takes nothing from services of the release before.
-- Table by table, each in a transaction of its own: locks on several at once could meet those of services that run.

-- migrate:up transaction=false
DROP POLICY IF EXISTS every_row ON blog_generations;
CREATE POLICY every_row ON blog_generations USING (true);
ALTER TABLE blog_generations ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON blog_posts;
CREATE POLICY every_row ON blog_posts USING (true);
ALTER TABLE blog_posts ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON blog_steps;
CREATE POLICY every_row ON blog_steps USING (true);
ALTER TABLE blog_steps ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON store_budgets;
CREATE POLICY every_row ON store_budgets USING (true);
ALTER TABLE store_budgets ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON store_outlooks;
CREATE POLICY every_row ON store_outlooks USING (true);
ALTER TABLE store_outlooks ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON store_spend;
CREATE POLICY every_row ON store_spend USING (true);
ALTER TABLE store_spend ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON stores;
CREATE POLICY every_row ON stores USING (true);
ALTER TABLE stores ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON webhook_attempts;
CREATE POLICY every_row ON webhook_attempts USING (true);
ALTER TABLE webhook_attempts ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON webhook_deliveries;
CREATE POLICY every_row ON webhook_deliveries USING (true);
ALTER TABLE webhook_deliveries ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS every_row ON webhook_secrets;
CREATE POLICY every_row ON webhook_secrets USING (true);
ALTER TABLE webhook_secrets ENABLE ROW LEVEL SECURITY;

-- migrate:down
-- The policies of roles go, too: every role sees every row again.
DO $$
DECLARE
    ours regclass;
    policy name;
BEGIN
    FOREACH ours IN ARRAY '{blog_generations, blog_posts, blog_steps, store_budgets, store_outlooks,
                            store_spend, stores, webhook_attempts, webhook_deliveries, webhook_secrets}'::regclass[] LOOP
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', ours);
        FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = ours LOOP
            EXECUTE format('DROP POLICY %I ON %s', policy, ours);
        END LOOP;
    END LOOP;
END
$$;
