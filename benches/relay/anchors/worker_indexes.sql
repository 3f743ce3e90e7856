-- The indexes that searching and leasing need, as in the product.
CREATE INDEX event_of_workspace ON event (workspace_id, event_id);
CREATE INDEX delivery_of_workspace ON delivery (workspace_id, delivery_id);
CREATE INDEX delivery_of_event ON delivery (event_id);
CREATE INDEX delivery_leased ON delivery (lease_owner) WHERE status = 'leased';
